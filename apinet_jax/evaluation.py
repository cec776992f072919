"""Evaluation: every image of a split exactly once, without gates."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from apinet_jax.config import FREE_FIELDS, flatten, recorded_config, result_differences
from apinet_jax.data.pipeline import EvalLoader, stream_split
from apinet_jax.data.source import Dataset
from apinet_jax.data.stratify import hold_out
from apinet_jax.method.metrics import EvalSummary, summarise
from apinet_jax.method.steps import make_eval_step
from apinet_jax.setup.build import make_dataset, make_network
from apinet_jax.setup.loaders import make_eval_loader
from apinet_jax.system import hosts
from apinet_jax.system.console import Bar, print_result, say
from apinet_jax.system.errors import InputError, RunError, explain_out_of_memory
from apinet_jax.system.mesh import make_mesh, replicated, to_global
from apinet_jax.system.paths import AnyPath, to_path, write_atomically
from apinet_jax.system.signals import stop_requests
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint
from apinet_jax.workdir.metrics_log import json_number
from apinet_jax.workdir.record import recorded_fingerprint

_SHOWN = 10  # class names of an error


class Evaluation(NamedTuple):
    """The outcome on one split.

    Attributes:
        summary: Accuracies.
        logits: Scores of each image, in the order of the split.
        labels: True class of each image.
    """

    summary: EvalSummary
    logits: Float[np.ndarray, "N C"]
    labels: Int[np.ndarray, " N"]


def evaluate_split(
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
    """Evaluate weights on one split.

    Args:
        eval_step: A compiled `steps.make_eval_step`.
        params: Parameters.
        batch_stats: BatchNorm statistics.
        loader: Batches of the split.
        mesh: The data mesh.
        title: Title of the progress bar.
        workers: Worker processes that decode.
        before_batch: Called before each batch; may raise to stop.

    Raises:
        RunError: If the device runs out of memory.
    """
    logits = apply_to_split(
        partial(eval_step, params, batch_stats), loader, mesh, title, workers, before_batch
    )
    return Evaluation(summarise(logits, loader.labels), logits, loader.labels)


def apply_to_split(
    function: Callable[..., Any],
    loader: EvalLoader,
    mesh: Mesh,
    title: str,
    workers: int,
    before_batch: Callable[[], None],
) -> Float[np.ndarray, "N _"]:
    """Apply a compiled function to every image of a split; see `evaluate_split`."""
    parts = []
    with (
        explain_out_of_memory("Try a lower eval.batch_size."),
        stream_split(loader, workers) as batches,
        Bar(title, loader.num_batches) as bar,
    ):
        for batch in batches:
            before_batch()
            found = function(to_global(batch, mesh).image)
            parts.append(np.asarray(found))  # waits, so that one batch is on the device at a time
            bar.advance()
    return np.concatenate(parts)[: len(loader.labels)]  # padding is at the end


def evaluate(
    run: AnyPath | str,
    checkpoint: str | int | None = None,
    config: ml_collections.ConfigDict | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> EvalSummary:
    """Evaluate a checkpoint of a run on its test images, and write `evaluation-STEP.json`.

    Without test images it is evaluated on the held-out ones. Photos other than the run's may be
    given; the file is then named after their fingerprint too, and a folder of them without splits
    is evaluated completely.

    Args:
        run: A workdir, or the folder of one checkpoint.
        checkpoint: `last`, `best` or a step; by default the one that the run chose.
        config: If given, where the data are stored now, and how they are read. Everything else
            stays as recorded; a line names what was ignored.
        devices: Devices that share each batch; all by default.

    Returns:
        The figures; they are printed as well.

    Raises:
        InputError: If there is no such checkpoint, or the data have other classes.
        RunError: If the device runs out of memory.
        Interrupted: After SIGTERM, SIGHUP or Ctrl-C.
    """
    mesh = make_mesh(devices)
    folder = to_path(hosts.broadcast_from_primary(lambda: str(resolve_checkpoint(run, checkpoint))))
    weights = load_weights(folder, sharding=replicated(mesh))
    recorded = recorded_config(weights.metadata["config"])
    if config is not None:
        _adopt(recorded, config)
    workdir, class_names = folder.parents[1], tuple(weights.metadata["class_names"])
    fingerprint = recorded_fingerprint(workdir)
    dataset = hosts.run_on_primary_first(lambda: _open_images(recorded, workdir, fingerprint))
    hosts.broadcast_from_primary(lambda: _check_same_classes(class_names, dataset.class_names))
    step, others = weights.metadata["step"], ""
    if fingerprint not in (None, dataset.fingerprint):
        others = f"-{dataset.fingerprint[:8]}"
        say(
            f"These are not the images of the run: their fingerprint is {dataset.fingerprint}, "
            f"the run's {fingerprint}."
        )
    split, source = ("test", dataset.test) if dataset.test else ("validation", dataset.validation)
    if source is None:
        raise InputError("The data set has neither test nor validation images to evaluate on.")
    loader = hosts.run_on_primary_first(
        lambda: make_eval_loader(recorded, source, dataset.fingerprint, mesh)
    )
    model, preprocess = make_network(recorded, len(class_names))
    with jax.set_mesh(mesh), stop_requests() as check_signals:
        summary, *_ = evaluate_split(
            make_eval_step(mesh, model=model, preprocess=preprocess, flip=bool(recorded.eval.flip)),
            weights.params,
            weights.batch_stats,
            loader,
            mesh,
            title=f"Evaluating {split} images",
            workers=recorded.data.workers,
            before_batch=check_signals,
        )
    path = workdir / f"evaluation-{step}{others}.json"
    report = {
        "step": step,
        "split": split,
        "data_dir": recorded.data.dir,
        "data_fingerprint": dataset.fingerprint,
        **summary_as_json(summary, class_names),
    }
    written = hosts.broadcast_from_primary(lambda: _write_report(path, report))
    print_result(
        [
            f"{split.capitalize()} images, step {step}",
            *summary_as_lines(summary, class_names),
            *([f"  every class           {path}"] if written else []),
        ]
    )
    return summary


def _open_images(
    config: ml_collections.ConfigDict, workdir: AnyPath, fingerprint: str | None
) -> Dataset:
    """Open the run's images, or other ones: all are test images in a folder without splits."""
    without = config.copy_and_resolve_references()
    without.data.val_fraction = 0.0  # other photos may have validation images
    dataset = make_dataset(without, workdir)
    if fingerprint in (None, dataset.fingerprint):
        return hold_out(dataset, config.data.val_fraction, config.seed)
    return make_dataset(without, workdir, all_as_test=True)


def _write_report(path: AnyPath, report: dict[str, Any]) -> bool:
    """Write the report; where the workdir is read-only, warn and return False."""
    try:
        write_atomically(path, json.dumps(report, indent=2) + "\n")
    except RunError as error:
        say(f"WARNING: {error} The figures below are complete; only this file is missing.")
        return False
    return True


def _check_same_classes(known: tuple[str, ...], found: tuple[str, ...]) -> None:
    """Refuse data of other classes, naming those that differ."""
    if known == found:
        return
    missing, unknown = sorted(set(known) - set(found)), sorted(set(found) - set(known))
    differences = [
        f"{what}: {', '.join(map(repr, names[:_SHOWN]))}{', ...' * (len(names) > _SHOWN)}"
        for what, names in (("missing in the data", missing), ("unknown to the run", unknown))
        if names
    ]
    raise InputError(
        f"The checkpoint has {len(known)} classes, the data have {len(found)}, and they differ "
        f"({'; '.join(differences) or 'in their order'}). Evaluate on the data set that the run "
        "was trained for."
    )


def _adopt(recorded: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    """Adopt the free fields that the command sets; print which other fields are ignored."""
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
    """Return a summary with class names, for a file."""
    first, second, times = summary.confused
    return {
        **summary._asdict(),
        "nll": json_number(summary.nll),
        "ece": json_number(summary.ece),
        "per_class": dict(zip(class_names, summary.per_class, strict=True)),
        "confused": [class_names[first], class_names[second], times],
    }


def summary_as_lines(summary: EvalSummary, class_names: Sequence[str]) -> list[str]:
    """Return a summary for a person."""
    first, second, times = summary.confused
    pair = f"{class_names[first]} / {class_names[second]} ({times} mistakes)"
    top5 = [f"  top-5                 {100 * summary.top5:.2f} %"]
    return [
        f"  images                {summary.images}",
        f"  top-1                 {100 * summary.top1:.2f} %",
        *(top5 if len(class_names) > 5 else []),  # else it is 100 %
        f"  mean over classes     {100 * summary.macro:.2f} %",
        f"  calibration error     {100 * summary.ece:.2f} %",
        f"  most confused pair    {pair if times else 'none'}",
    ]
