"""The end of a run: its accuracy, curves, `results.json` and a summary for the reader."""

import json

from apinet_jax.evaluation import Evaluation, summary_as_json, summary_as_lines
from apinet_jax.loop import Run
from apinet_jax.method.calibration import LEAST, MOST, calibration_error, fit_temperature
from apinet_jax.method.types import TrainState
from apinet_jax.system import hosts
from apinet_jax.system.console import print_result
from apinet_jax.system.mesh import replicated
from apinet_jax.system.paths import write_atomically
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import BEST, LAST
from apinet_jax.workdir.curves import draw_curves
from apinet_jax.workdir.metrics_log import json_number


def report_results(run: Run, state: TrainState) -> None:
    """Evaluates the last state, and the one chosen on held-out images, on the test images.

    Test images choose nothing: which state counts was decided by the held-out images, or, without
    any, by being the last. Without test images the held-out ones have to tell how good it is.

    Args:
        run: The run.
        state: Its last state.
    """
    run.checkpoints.wait()
    validation = [row for row in run.writer.rows if row["kind"] == "validation"]
    chosen, how = "last", "last epoch; no images were held out to choose by"
    if validation:
        held_out = len(run.dataset.validation)
        chosen, how = "best", f"best of {len(validation)} epochs on {held_out} held-out images"
    split = "validation" if run.dataset.test is None else "test"
    there = getattr(run.dataset, split) is not None
    states, steps = {"last": state}, {"last": run.plan.total}
    if validation:
        best = load_weights(run.workdir, "best", replicated(run.mesh))
        states["best"] = state._replace(params=best.params, batch_stats=best.batch_stats, ema=None)
        steps["best"] = best.metadata["step"]
    evaluations = {which: run.evaluate(one, split) for which, one in states.items() if there}
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
        title = "Test images" if split == "test" else "Held-out images (there are no test images)"
        lines += [f"{title}, {which} checkpoint{mark}", *summary_as_lines(one.summary, names)]
    if not evaluations:
        lines.append("There are neither test nor held-out images to tell how good it is.")
    if validation and split == "test":
        held_out = run.evaluate(states[chosen], "validation")
        report["calibration"], line = _calibration(held_out, evaluations[chosen])
        lines.append(line)
    results, curves = run.workdir / "results.json", run.workdir / "curves.png"

    def write() -> None:
        write_atomically(results, json.dumps(report, indent=2) + "\n")
        draw_curves(run.writer.rows, run.plan.frozen, curves)

    hosts.broadcast_from_primary(write)
    folder = run.workdir / (BEST if chosen == "best" else LAST) / str(steps[chosen])
    print_result(
        [
            *lines,
            f"  checkpoint            {folder}",
            f"  curves                {curves}",
            f"  metrics               {run.workdir / 'metrics.jsonl'}",
            f"  results               {results}",
        ]
    )


def _calibration(held_out: Evaluation, test: Evaluation) -> tuple[dict[str, float | None], str]:
    """The temperature that suits held-out images, and what it does to the test images."""
    temperature = fit_temperature(held_out.logits, held_out.labels)
    scaled = calibration_error(test.logits, test.labels, temperature)
    figures = {
        "temperature": temperature,
        "test_ece": json_number(test.summary.ece),
        "test_ece_scaled": json_number(scaled),
    }
    how = "fitted on the held-out images"
    if not LEAST < temperature < MOST:
        how += ", which are too few or too easy to tell one"
    return figures, (
        f"  at temperature {temperature:.2f}   calibration error {100 * scaled:.2f} % ({how})"
    )
