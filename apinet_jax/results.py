"""The end of a run: its accuracy, curves, `results.json` and a summary for the reader."""

import json
from typing import Any, NamedTuple

from apinet_jax.evaluation import Evaluation, summary_as_json, summary_as_lines
from apinet_jax.loop import Run
from apinet_jax.method.calibration import LEAST, MOST, calibration_error, fit_temperature
from apinet_jax.method.metrics import EvalSummary
from apinet_jax.method.types import TrainState
from apinet_jax.system import hosts
from apinet_jax.system.console import print_result
from apinet_jax.system.mesh import replicated
from apinet_jax.system.paths import AnyPath, write_atomically
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import BEST, LAST
from apinet_jax.workdir.curves import draw_curves
from apinet_jax.workdir.metrics_log import json_number

_TITLES = {
    "test": "Test images",
    "validation": "Held-out images (there are no test images)",
}


class TrainResult(NamedTuple):
    """The outcome of a run.

    Attributes:
        workdir: Folder of the run.
        checkpoint: The chosen checkpoint: the best on held-out images, else the last.
        split: `test`, or `validation` where the data set has no test images.
        summary: Its figures on that split; `None` without any images to evaluate on.
        temperature: Fitted on held-out images; `None` where none were held out, or without test
            images.
        history: The rows of `metrics.jsonl`.
    """

    workdir: AnyPath
    checkpoint: AnyPath
    split: str
    summary: EvalSummary | None
    temperature: float | None
    history: list[dict[str, Any]]


def report_results(run: Run, state: TrainState) -> TrainResult:
    """Evaluate the last state and the best one on the test images, and report both.

    Test images choose nothing: held-out images have chosen the best state, and without any the last
    one counts. Without test images the figures are those of the held-out images.
    """
    run.checkpoints.wait()
    validation = [row for row in run.writer.rows if row["kind"] == "validation"]
    chosen, how = "last", "last epoch; no images were held out to choose by"
    if validation:
        held_out = len(run.dataset.validation)
        chosen, how = "best", f"best of {len(validation)} epochs on {held_out} held-out images"
    split = "validation" if run.dataset.test is None else "test"
    states, steps = {"last": state}, {"last": run.plan.total}
    if validation:
        best = load_weights(run.workdir, "best", replicated(run.mesh))
        states["best"] = state._replace(params=best.params, batch_stats=best.batch_stats, ema=None)
        steps["best"] = best.metadata["step"]
    evaluations = {}
    if getattr(run.dataset, split) is not None:
        once = {step: states[which] for which, step in steps.items()}  # often they are the same
        by_step = {step: run.evaluate(one, split) for step, one in once.items()}
        evaluations = {which: by_step[step] for which, step in steps.items()}
    names = run.dataset.class_names
    report = {
        "chosen": chosen,
        "chosen_how": how,
        "steps": steps,
        split: {which: summary_as_json(one.summary, names) for which, one in evaluations.items()},
    }
    lines = []
    for which, one in evaluations.items():
        mark = f" (chosen: {how})" if which == chosen else ""
        title = f"{_TITLES[split]}, {which} checkpoint{mark}"
        lines += [title, *summary_as_lines(one.summary, names)]
    if not evaluations:
        lines.append("There are neither test nor held-out images to evaluate on.")
    if validation and split == "test":
        held_out = run.evaluate(states[chosen], "validation")
        report["calibration"], line = _calibration(held_out, evaluations[chosen])
        lines.append(line)
    results, curves = run.workdir / "results.json", run.workdir / "curves.png"

    def write() -> None:
        write_atomically(results, json.dumps(report, indent=2) + "\n")
        draw_curves(run.writer.rows, run.plan.frozen, curves)

    hosts.broadcast_from_primary(write)
    checkpoint = run.workdir / (BEST if chosen == "best" else LAST) / str(steps[chosen])
    print_result(
        [
            *lines,
            f"  checkpoint            {checkpoint}",
            f"  curves                {curves}",
            f"  metrics               {run.workdir / 'metrics.jsonl'}",
            f"  results               {results}",
        ]
    )
    return TrainResult(
        workdir=run.workdir,
        checkpoint=checkpoint,
        split=split,
        summary=evaluations[chosen].summary if evaluations else None,
        temperature=report.get("calibration", {}).get("temperature"),
        history=run.writer.rows,
    )


def _calibration(held_out: Evaluation, test: Evaluation) -> tuple[dict[str, float | None], str]:
    """Fit the temperature on held-out images, and apply it to the test images."""
    temperature = fit_temperature(held_out.logits, held_out.labels)
    scaled = calibration_error(test.logits, test.labels, temperature)
    figures = {
        "temperature": temperature,
        "test_ece": json_number(test.summary.ece),
        "test_ece_scaled": json_number(scaled),
    }
    how = "fitted on the held-out images"
    if not LEAST < temperature < MOST:
        how += ", which are too few or too easy to fit one"
    return figures, (
        f"  at temperature {temperature:.2f}   calibration error {100 * scaled:.2f} % ({how})"
    )
