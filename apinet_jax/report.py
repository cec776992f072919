"""The end of a run: its accuracy, curves, `results.json` and a summary for the reader."""

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
    steps = {"last": run.plan.total}
    summaries: dict[str, EvalSummary] = {}
    if there:
        summaries["last"] = run.evaluate(state, split)
    if validation:
        best = load_weights(run.workdir, "best", replicated(run.mesh))
        steps["best"] = best.metadata["step"]
        best_state = state._replace(params=best.params, batch_stats=best.batch_stats)
        summaries["best"] = run.evaluate(best_state, split)
    names = run.dataset.class_names
    report = {
        "chosen": chosen,
        "chosen_how": how,
        "steps": steps,
        split: {which: as_json(summary, names) for which, summary in summaries.items()},
    }
    results, curves = run.workdir / "results.json", run.workdir / "curves.png"
    write_atomically(results, json.dumps(report, indent=2) + "\n")
    draw_curves(run.writer.rows, run.plan.frozen, curves)

    lines = []
    for which, summary in summaries.items():
        mark = f" (chosen: {how})" if which == chosen else ""
        title = "Test images" if split == "test" else "Held-out images (there are no test images)"
        lines += [f"{title}, {which} checkpoint{mark}", *as_lines(summary, names)]
    if not summaries:
        lines.append("There are neither test nor held-out images to tell how good it is.")
    folder = run.workdir / (BEST if chosen == "best" else LAST) / str(steps[chosen])
    result(
        [
            *lines,
            f"  checkpoint            {folder}",
            f"  curves                {curves}",
            f"  metrics               {run.workdir / 'metrics.jsonl'}",
            f"  results               {results}",
        ]
    )
