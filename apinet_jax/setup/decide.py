"""What the primary process decides before a run: which settings, which data, which run."""

import os
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from apinet_jax.config import flatten
from apinet_jax.config_checks import check_config
from apinet_jax.data.source import Dataset
from apinet_jax.models import check_trunk
from apinet_jax.models.weights.hub import find_pretrained, pin_source
from apinet_jax.models.weights.recognise import check_weights
from apinet_jax.setup import memory
from apinet_jax.setup.auto import choose
from apinet_jax.setup.build import make_dataset
from apinet_jax.setup.weights import AUTO, SCRATCH, choose_weights
from apinet_jax.system import hosts
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import check_divisible
from apinet_jax.system.paths import AnyPath, is_remote, to_path
from apinet_jax.workdir.record import check_same_run, new_record, read_record


class Decision(NamedTuple):
    """What the primary process decides for all.

    Attributes:
        config: Completed configuration.
        recorded: The run record found in the workdir, `None` in a fresh one.
        record: The record of this run, to which the session is added.
        fingerprint: Hash of the data set.
    """

    config: ml_collections.ConfigDict
    recorded: dict[str, Any] | None
    record: dict[str, Any]
    fingerprint: str


def decide(
    config: ml_collections.ConfigDict, workdir: AnyPath, mesh: Mesh, *, extend: bool
) -> tuple[Decision, Dataset]:
    """Complete the configuration and open the data set: on the primary process, then on all.

    The primary process reads the workdir, prepares the data, and broadcasts the outcome once.

    Raises:
        InputError: If something does not fit, or this host has other images than the primary.
    """
    opened = []

    def on_primary() -> dict[str, Any]:
        check_config(config)
        model = config.model
        check_trunk(model.trunk, config.data.crop, model.pool, model.drop_path)
        recorded = read_record(workdir)
        resolved = _resolve_names(config, recorded)
        automatic = resolved.model.pretrained == AUTO
        if recorded is None and resolved.model.pretrained and not automatic:
            check_weights(find_pretrained(resolved.model.pretrained).path, resolved.model.trunk)
        dataset = make_dataset(resolved, workdir)
        opened.append(dataset)
        if automatic:  # after a mistake in the data has been found: weights are large
            resolved.model.pretrained = _chosen_weights(resolved, mesh)
        complete = _complete(resolved, dataset, mesh, recorded)
        record = _record(complete, dataset, mesh, recorded, workdir, extend=extend)
        return Decision(complete.to_dict(), recorded, record, dataset.fingerprint)._asdict()

    decision = Decision(**hosts.broadcast_from_primary(on_primary))
    decision = decision._replace(config=ml_collections.ConfigDict(decision.config))
    if not opened:  # each host reads the files that its own command names
        own = decision.config.copy_and_resolve_references()
        _set_absolute_folders(own, config)
        opened.append(make_dataset(own, workdir))
    (dataset,) = opened
    if dataset.fingerprint != decision.fingerprint:
        raise InputError(
            f"Host {jax.process_index()} has other images than host 0: their fingerprint is "
            f"{dataset.fingerprint}, not {decision.fingerprint}. Give all hosts the same files."
        )
    return decision, dataset


def _resolve_names(
    config: ml_collections.ConfigDict, record: dict[str, Any] | None
) -> ml_collections.ConfigDict:
    """Copy the configuration with absolute paths and the permanent name of named weights."""
    config = config.copy_and_resolve_references()
    _set_absolute_folders(config, config)
    name, source = config.model.pretrained, ((record and record["pretrained"]) or {}).get("source")
    if name == SCRATCH:
        name = None
    elif name == AUTO and record is not None:
        name = source
    config.model.pretrained = pin_source(name, source) if name and name != AUTO else name
    return config


def _chosen_weights(config: ml_collections.ConfigDict, mesh: Mesh) -> str | None:
    """Choose weights for the devices, fetch them, and return their permanent name."""
    device = mesh.local_devices[0]
    choice = choose_weights(
        config.model.trunk,
        device.platform,
        mesh.size,
        memory.device_bytes(device),
        cached=config.train.features == "cache",
    )
    say(choice.line)
    if choice.name is None:
        return None
    try:
        return find_pretrained(choice.name).source
    except InputError as error:
        raise InputError(
            f"{error}\nOr train from random values, which are far less accurate, with "
            f"--config.model.pretrained={SCRATCH}"
        ) from error


def _set_absolute_folders(
    config: ml_collections.ConfigDict, source: ml_collections.ConfigDict
) -> None:
    """Set the folders of the data to those of `source`, as absolute paths."""
    for name in ("dir", "manual_dir"):
        folder = source.data[name]
        config.data[name] = (
            os.path.abspath(to_path(folder)) if folder and not is_remote(folder) else folder
        )


def _complete(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    record: dict[str, Any] | None,
) -> ml_collections.ConfigDict:
    """Fill the open fields, from the run record where one exists, and print the choices."""
    splits = (dataset.train, dataset.validation, dataset.test)
    device = mesh.local_devices[0]
    complete, choices = choose(
        config,
        dataset.train.labels,
        sum(len(split) for split in splits if split is not None),
        device.platform,
        mesh.size,
        memory.device_bytes(device),
        record and record["config"],
    )
    say(*choices)
    check_config(complete)
    batch_size = complete.batch.classes * complete.batch.images
    where = "batch.classes x batch.images"
    check_divisible(batch_size, mesh, where, complete.train.microbatches)
    return complete


def _record(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    recorded: dict[str, Any] | None,
    workdir: AnyPath,
    *,
    extend: bool,
) -> dict[str, Any]:
    """Return the record of a new run, or of the recorded one if it may continue like this."""
    flat, fingerprint = flatten(config), dataset.fingerprint
    if recorded is None:
        return new_record(flat, fingerprint, config.model.pretrained, mesh.size)
    extended = check_same_run(
        recorded,
        flat,
        fingerprint,
        workdir,
        extend=extend,
        num_devices=mesh.size,
        image_changes=dataset.changes_since(recorded["data_fingerprint"]),
    )
    if extended:
        say(
            f"Extended from {recorded['config']['optim.epochs']:g} to {config.optim.epochs:g} "
            "epochs. The cosine schedule is recomputed over all of them."
        )
    return {**recorded, "config": flat}
