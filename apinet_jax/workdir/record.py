"""`run.json`: the settings of a run, and whether a new command may continue it."""

import hashlib
import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from apinet_jax.config import result_differences
from apinet_jax.models import variable_shapes
from apinet_jax.models.weights.hub import find_pretrained, is_on_hub
from apinet_jax.system import hosts
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath, check_writable, write_atomically
from apinet_jax.workdir.checkpoint_files import BEST, LAST, steps_of
from apinet_jax.workdir.metrics_log import read_rows

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
# Seconds within which a network disk shows a new file to every host.
_VISIBLE_WITHIN = 60.0
# The parts of a record; `pretrained` is `None` or has a source and a hash.
_PARTS = {
    "config": dict,
    "data_fingerprint": str,
    "pretrained": dict | None,
    "sessions": list,
}


def read_record(workdir: AnyPath) -> dict[str, Any] | None:
    """Return the record of a workdir, or `None` if no run began there.

    Raises:
        InputError: If the workdir cannot be used, or its record or metrics are damaged.
    """
    check_writable(workdir)
    path = workdir / "run.json"
    if not path.exists():
        _check_no_run(workdir)
        return None
    read_rows(workdir / "metrics.jsonl")  # refuse a damaged line before the data are prepared
    return _parsed(path)


def recorded_fingerprint(workdir: AnyPath) -> str | None:
    """Return the fingerprint of a run's data, or `None` without a valid record."""
    try:
        return _parsed(workdir / "run.json")["data_fingerprint"]
    except InputError:
        return None


def _parsed(path: AnyPath) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _invalid(path, str(error)) from error
    if not isinstance(record, dict):
        raise _invalid(path, "no JSON object")
    if wrong := [
        name for name, kind in _PARTS.items() if not isinstance(record.get(name, ()), kind)
    ]:
        raise _invalid(path, f"without a valid {', '.join(wrong)}")
    if record["pretrained"] and not {"source", "sha256"} <= set(record["pretrained"]):
        raise _invalid(path, "without source and sha256 of the pretrained weights")
    return record


def _invalid(path: AnyPath, why: str) -> InputError:
    return InputError(
        f"{path} is not a run record ({why}). If the folder holds no run that you want to "
        "continue, remove it or choose another workdir."
    )


def _check_no_run(workdir: AnyPath) -> None:
    """Refuse the files of a run whose record is missing: its settings are unknown."""
    found = [name for name in (LAST, BEST) if steps_of(workdir, name)]
    if (workdir / "metrics.jsonl").exists():
        found.append("metrics.jsonl")
    if found:
        raise InputError(
            f"{workdir} holds {' and '.join(found)} of a run, but not its run.json with the "
            "settings. Restore that file, or choose another workdir."
        )


def new_record(
    config: dict[str, Any], fingerprint: str, pretrained: str | None, num_devices: int = 1
) -> dict[str, Any]:
    """Return the record of a new run.

    Args:
        config: Flat, completed configuration.
        fingerprint: Hash of the data set.
        pretrained: The pretrained weights, as for `find_pretrained`.
        num_devices: Devices that share a batch.
    """
    weights = None
    if pretrained:
        found = find_pretrained(pretrained)
        weights = {"source": found.source, "sha256": sha256_of(found.path)}
    return {
        "config": config,
        "data_fingerprint": fingerprint,
        "pretrained": weights,
        "devices": num_devices,
        "sessions": [],
    }


def check_same_run(
    record: dict[str, Any],
    config: dict[str, Any],
    fingerprint: str,
    workdir: AnyPath,
    *,
    extend: bool,
    num_devices: int = 1,
    image_changes: str = "",
) -> bool:
    """Refuse to continue a run under settings that change its results.

    Args:
        record: The record of the workdir.
        config: Flat, completed configuration of this command.
        fingerprint: Hash of the data set of this command.
        workdir: The folder, for the message.
        extend: Whether more epochs than recorded are allowed.
        num_devices: Devices that share a batch now.
        image_changes: Which files changed, as far as it is known.

    Returns:
        Whether the run is extended.

    Raises:
        InputError: With one line for each difference.
    """
    differences = result_differences(record["config"], config)
    pretrained, recorded = config["model.pretrained"], record["pretrained"]
    if bool(pretrained) != bool(recorded):
        differences.append(("model.pretrained", recorded and recorded["source"], pretrained))
    elif pretrained and is_on_hub(pretrained):  # its name includes the commit
        if pretrained != recorded["source"]:
            differences.append(("model.pretrained", recorded["source"], pretrained))
    elif pretrained and (path := find_pretrained(pretrained).path).exists():
        now = sha256_of(path)
        if now != recorded["sha256"]:
            differences.append(("SHA-256 of model.pretrained", recorded["sha256"], now))
    if fingerprint != record["data_fingerprint"]:
        what = f"the images ({image_changes})" if image_changes else "the images themselves"
        differences.append((what, record["data_fingerprint"], fingerprint))
    devices = record.get("devices", num_devices)
    if devices != num_devices and _groups_follow_devices(config):
        differences.append(("devices, which BatchNorm's groups follow", devices, num_devices))
    extended = [old < new for name, old, new in differences if name == "optim.epochs"] == [True]
    if extended and extend:
        differences = [row for row in differences if row[0] != "optim.epochs"]
    if not differences:
        return extended
    lines = [f"  {name}: {old} there, {new} now" for name, old, new in differences]
    hint = ""
    if extended:
        hint = (
            " More epochs are possible with --extend (extend=True), which recomputes the cosine of "
            "the learning rate over the longer run."
        )
    raise InputError(
        f"The run in {workdir} was made with other settings:\n"
        + "\n".join(lines)
        + f"\nUse the same settings to continue it, or another workdir for a new run.{hint}"
    )


def _groups_follow_devices(config: dict[str, Any]) -> bool:
    """Return whether the number of devices decides which images share BatchNorm statistics."""
    grouped = config["model.batch_norm"] == "per_device" or config["train.microbatches"] > 1
    return grouped and "batch_stats" in variable_shapes(config["model.trunk"])


def begin_session(workdir: AnyPath, record: dict[str, Any], step: int) -> None:
    """Add a session that starts at `step` to the record, and write it.

    Raises:
        InputError: In a process that does not see the file that the primary process wrote.
        RunError: If it cannot be written.
    """
    hosts.broadcast_from_primary(lambda: _write_session(workdir, record, step))
    until = time.monotonic() + _VISIBLE_WITHIN
    while not (workdir / "run.json").exists():
        if time.monotonic() > until:
            raise InputError(
                f"Host {jax.process_index()} does not see {workdir}/run.json, which host 0 has "
                "written. Choose a workdir on a disk that all hosts share, or in a bucket."
            )
        time.sleep(0.1)
    hosts.wait_for_all_processes()  # a collective would time out on a slow disk


def _write_session(workdir: AnyPath, record: dict[str, Any], step: int) -> None:
    device = jax.devices()[0]
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "command": sys.argv,
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "processes": jax.process_count(),
        "host": platform.platform(),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
    }
    record["sessions"].append(session)
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "run.json", json.dumps(record, indent=2) + "\n")


def sha256_of(path: AnyPath) -> str:
    """Return the SHA-256 of a file of weights, in hexadecimal.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"Cannot read the weights {path}: {error.strerror}. Check model.pretrained."
        ) from error


def _commit() -> str | None:
    """Return the commit of this checkout, or `None` for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.check_output(
            command, cwd=checkout, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
