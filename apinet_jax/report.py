"""The end of a run: test images, curves, `results.json` and a summary for the reader."""

import json

from apinet_jax.array_types import TrainState
from apinet_jax.checkpoint import BEST, LAST, load_weights
from apinet_jax.curves import draw_curves
from apinet_jax.evaluate import as_json, as_lines
from apinet_jax.loop import Run
from apinet_jax.mesh import replicated
from apinet_jax.metrics import EvalSummary
from apinet_jax.writer import result, write_atomically


def finish(run: Run, state: TrainState) -> None:
    """Evaluates the last state, and the one chosen on held-out images, on the test images.

    Test images choose nothing: which state counts was decided by the held-out images, or, without
    any, by being the last.

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
    steps = {"last": run.plan.total}
    summaries: dict[str, EvalSummary] = {}
    if run.dataset.test is not None:
        summaries["last"] = run.evaluate(state, "test")
    if validation:
        best = load_weights(run.workdir, "best", replicated(run.mesh))
        steps["best"] = best.metadata["step"]
        if run.dataset.test is not None:
            best_state = state._replace(params=best.params, batch_stats=best.batch_stats)
            summaries["best"] = run.evaluate(best_state, "test")
    names = run.dataset.class_names
    report = {
        "chosen": chosen,
        "chosen_how": how,
        "steps": steps,
        "test": {which: as_json(summary, names) for which, summary in summaries.items()},
    }
    results, curves = run.workdir / "results.json", run.workdir / "curves.png"
    write_atomically(results, json.dumps(report, indent=2) + "\n")
    draw_curves(run.writer.rows, run.plan.frozen, curves)

    lines = []
    for which, summary in summaries.items():
        mark = f" (chosen: {how})" if which == chosen else ""
        lines += [f"Test images, {which} checkpoint{mark}", *as_lines(summary, names)]
    if not summaries:
        lines.append("There are no test images; metrics.jsonl holds what there is.")
    result(
        [
            *lines,
            f"  checkpoint            {run.workdir / (BEST if chosen == 'best' else LAST)}",
            f"  curves                {curves}",
            f"  metrics               {run.workdir / 'metrics.jsonl'}",
            f"  results               {results}",
        ]
    )
