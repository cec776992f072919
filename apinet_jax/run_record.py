"""`run.json`: what a workdir was made with, and whether a new command may go on in it."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from apinet_jax.config import result_differences
from apinet_jax.errors import InputError
from apinet_jax.writer import write_atomically

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def read_record(workdir: Path) -> dict[str, Any] | None:
    """The record of a workdir, or `None` if no run began there.

    Raises:
        InputError: If the file is not a record, or the workdir cannot be one.
    """
    there = next(place for place in (workdir, *workdir.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "may not be written to" if there.is_dir() else "is not a folder"
        raise InputError(f"The workdir {workdir} cannot be used: {there} {reason}. Choose another.")
    path = workdir / "run.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not a run record ({error}). If the folder holds no run that you want to "
            "continue, remove it or choose another --workdir."
        ) from error


def new_record(config: dict[str, Any], fingerprint: str, pretrained: str | None) -> dict[str, Any]:
    """The record of a run that begins now.

    Args:
        config: Flat, completed configuration.
        fingerprint: Hash of the data set.
        pretrained: File of the pretrained weights.
    """
    weights = pretrained and {
        "source": os.path.abspath(pretrained),
        "sha256": sha256_of(Path(pretrained)),
    }
    return {
        "config": config,
        "data_fingerprint": fingerprint,
        "pretrained": weights or None,
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "sessions": [],
    }


def check_same_run(
    record: dict[str, Any],
    config: dict[str, Any],
    fingerprint: str,
    workdir: Path,
    *,
    extend: bool,
) -> bool:
    """Refuses to continue a run under settings that change its results.

    Args:
        record: The record of the workdir.
        config: Flat, completed configuration of this command.
        fingerprint: Hash of the data set of this command.
        workdir: The folder, for the message.
        extend: Whether more epochs than recorded are allowed.

    Returns:
        Whether the run is extended.

    Raises:
        InputError: With a line for each difference.
    """
    differences = result_differences(record["config"], config)
    pretrained, recorded = config["model.pretrained"], record["pretrained"]
    if bool(pretrained) != bool(recorded):
        differences.append(("model.pretrained", recorded and recorded["source"], pretrained))
    elif pretrained and Path(pretrained).exists():
        now = sha256_of(Path(pretrained))
        if now != recorded["sha256"]:
            differences.append(("SHA-256 of model.pretrained", recorded["sha256"], now))
    if fingerprint != record["data_fingerprint"]:
        differences.append(("the images themselves", record["data_fingerprint"], fingerprint))
    extended = [old < new for name, old, new in differences if name == "optim.epochs"] == [True]
    if extended and extend:
        differences = [row for row in differences if row[0] != "optim.epochs"]
    if not differences:
        return extended
    lines = [f"  {name}: {old} there, {new} now" for name, old, new in differences]
    hint = ""
    if extended:
        hint = (
            " More epochs are possible with --extend, which plans the cosine of the learning rate "
            "anew over the longer run."
        )
    raise InputError(
        f"The run in {workdir} was made with other settings:\n"
        + "\n".join(lines)
        + f"\nUse the same settings to continue it, or another --workdir for a new run.{hint}"
    )


def begin_session(workdir: Path, record: dict[str, Any], step: int) -> None:
    """Notes that a process takes over at `step`, and writes the record."""
    device = jax.devices()[0]
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "command": sys.argv,
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "host": platform.platform(),
    }
    record["sessions"].append(session)
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "run.json", json.dumps(record, indent=2) + "\n")


def sha256_of(path: Path) -> str:
    """SHA-256 of the bytes of a file of weights, in hexadecimal.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"cannot read the weights {path}: {error.strerror}; check --config.model.pretrained"
        ) from error


def _commit() -> str | None:
    """The commit of this checkout, or `None` for an installed package."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        return subprocess.check_output(
            command, cwd=folder, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
