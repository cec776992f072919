"""Evaluation: every image of a split exactly once, without gates."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from apinet_jax.config import FREE_FIELDS, flatten, recorded_config, result_differences
from apinet_jax.data.pipeline import EvalLoader, stream
from apinet_jax.method.metrics import EvalSummary, summarise
from apinet_jax.method.steps import make_eval_step
from apinet_jax.setup.build import make_dataset, make_eval_loader, make_network
from apinet_jax.system import hosts
from apinet_jax.system.console import Bar, print_result, say
from apinet_jax.system.errors import InputError, explain_out_of_memory
from apinet_jax.system.mesh import make_mesh, replicated, to_global
from apinet_jax.system.paths import AnyPath, to_path, write_atomically
from apinet_jax.system.signals import stop_requests
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import find_checkpoint
from apinet_jax.workdir.metrics_log import json_number
from apinet_jax.workdir.record import recorded_fingerprint


class Evaluation(NamedTuple):
    """A split, evaluated.

    Attributes:
        summary: Accuracies.
        logits: Scores of each image, in the order of the split.
        labels: True class of each image.
    """

    summary: EvalSummary
    logits: Float[np.ndarray, "N C"]
    labels: Int[np.ndarray, " N"]


def evaluate(
    eval_step: Callable[..., Any],
    params: Any,
    batch_stats: Any,
    loader: EvalLoader,
    mesh: Mesh,
    *,
    title: str,
    workers: int = 0,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluates weights on one split.

    Args:
        eval_step: A compiled `steps.make_eval_step`.
        params: Parameters.
        batch_stats: BatchNorm statistics.
        loader: Batches of the split.
        mesh: The data mesh.
        title: What the progress bar says.
        workers: Worker processes that decode.
        before_batch: Called before each batch; may raise to give up.

    Raises:
        RunError: If the device runs out of memory.
    """
    sums, parts = None, []
    with (
        explain_out_of_memory("Try a lower --config.eval.batch_size."),
        stream(loader, 0, loader.num_batches, workers) as batches,
        Bar(title, loader.num_batches) as bar,
    ):
        for batch in batches:
            before_batch()
            more, logits = eval_step(params, batch_stats, to_global(batch, mesh))
            sums = more if sums is None else jax.tree.map(jax.numpy.add, sums, more)
            parts.append(np.asarray(logits))  # waits, so that one batch is on the device at a time
            bar.advance()
    labels = loader.reader.source.labels
    logits = np.concatenate(parts)[: len(labels)]  # padding is at the end
    return Evaluation(summarise(jax.device_get(sums), logits, labels), logits, labels)


def evaluate_run(
    workdir: AnyPath | str | None, which: str, config: ml_collections.ConfigDict | None
) -> EvalSummary:
    """Evaluates a checkpoint of a run, prints the outcome and writes `evaluation-STEP.json`.

    What the command asks of the network otherwise than the run, and images other than the run's
    own, are told in a line each.

    Args:
        workdir: Folder of a run; not needed where `which` is a folder.
        which: `last`, `best`, a step, or the folder of one checkpoint.
        config: Where given, says where the data lie now; all else is as the run recorded it.

    Raises:
        InputError: If there is no such checkpoint, or the data are of other classes.
    """
    mesh = make_mesh()
    checkpoint = to_path(hosts.broadcast_from_primary(lambda: str(find_checkpoint(workdir, which))))
    weights = load_weights(checkpoint, sharding=replicated(mesh))
    recorded = recorded_config(weights.metadata["config"])
    if config is not None:
        _adopt(recorded, config)
    dataset = hosts.run_on_primary_first(lambda: make_dataset(recorded))
    class_names = tuple(weights.metadata["class_names"])
    hosts.broadcast_from_primary(lambda: _check_same_classes(class_names, dataset.class_names))
    fingerprint = recorded_fingerprint(checkpoint.parents[1])
    if fingerprint not in (None, dataset.fingerprint):
        say(
            f"These are not the images of the run: their fingerprint is {dataset.fingerprint}, "
            f"its {fingerprint}."
        )
    split, source = ("test", dataset.test) if dataset.test else ("validation", dataset.validation)
    if source is None:
        raise InputError("The data set has neither test nor validation images to evaluate on.")
    loader = hosts.run_on_primary_first(
        lambda: make_eval_loader(recorded, source, dataset.fingerprint, mesh)
    )
    model, preprocess = make_network(recorded, len(class_names))
    step = weights.metadata["step"]
    with jax.set_mesh(mesh), stop_requests() as check_signals:
        summary, *_ = evaluate(
            make_eval_step(mesh, model=model, preprocess=preprocess, flip=bool(recorded.eval.flip)),
            weights.params,
            weights.batch_stats,
            loader,
            mesh,
            title=f"Evaluating {split} images",
            workers=recorded.data.workers,
            before_batch=check_signals,
        )
    print_result(
        [f"{split.capitalize()} images, step {step}", *summary_as_lines(summary, class_names)]
    )
    path = checkpoint.parents[1] / f"evaluation-{step}.json"
    report = {"step": step, "split": split, **summary_as_json(summary, class_names)}
    hosts.broadcast_from_primary(
        lambda: write_atomically(path, json.dumps(report, indent=2) + "\n")
    )
    print_result([f"  every class           {path}"])
    return summary


def _check_same_classes(known: tuple[str, ...], there: tuple[str, ...]) -> None:
    if known != there:
        raise InputError(
            f"The checkpoint knows {len(known)} classes ({known[0]}, ...), the data have "
            f"{len(there)} ({there[0]}, ...), and they are not the same. Evaluate on the data set "
            "that the run was trained for."
        )


def _adopt(recorded: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    """Takes the free fields that the command gives; says which others it leaves as they were."""
    given = {name: value for name, value in flatten(config).items() if value is not None}
    free = {k: v for k, v in given.items() if k in (*FREE_FIELDS, "eval.flip")}
    recorded.update_from_flattened_dict(free)
    if left := [
        f"{name} = {old} (not {given[name]})"
        for name, old, _ in result_differences(flatten(recorded), flatten(config))
        if name in given
    ]:
        say(f"Taken from the run, not from the command: {', '.join(left)}")


def summary_as_json(summary: EvalSummary, class_names: Sequence[str]) -> dict[str, Any]:
    """A summary with class names in it, for a file."""
    first, second, times = summary.confused
    return {
        **summary._asdict(),
        "nll": json_number(summary.nll),
        "ece": json_number(summary.ece),
        "per_class": dict(zip(class_names, summary.per_class, strict=True)),
        "confused": [class_names[first], class_names[second], times],
    }


def summary_as_lines(summary: EvalSummary, class_names: Sequence[str]) -> list[str]:
    """A summary for a person."""
    first, second, times = summary.confused
    pair = f"{class_names[first]} / {class_names[second]} ({times} mistakes)"
    return [
        f"  images                {summary.images}",
        f"  top-1                 {100 * summary.top1:.2f} %",
        f"  top-5                 {100 * summary.top5:.2f} %",
        f"  mean over classes     {100 * summary.macro:.2f} %",
        f"  calibration error     {100 * summary.ece:.2f} %",
        f"  most confused pair    {pair if times else 'none'}",
    ]
