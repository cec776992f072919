"""Whether a program fits the device, by the compiler's figures before the first step."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from apinet_jax.models import SCRATCH_TRUNKS, trunk_spec
from apinet_jax.system.errors import RunError

_MIB = 2**20
_MOST_OPTIONS = 3  # in a message
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """Return the memory that one device needs to run a compiled program, in bytes.

    Arguments, results, temporaries and code, less the memory that results reuse from arguments.
    """
    need = compiled.memory_analysis()
    return (
        need.argument_size_in_bytes
        + need.output_size_in_bytes
        + need.temp_size_in_bytes
        + need.generated_code_size_in_bytes
        - need.alias_size_in_bytes
    )


def compile_unless_too_large(
    compiles: Callable[[], jax.stages.Compiled],
) -> jax.stages.Compiled | None:
    """Return what `compiles` does, or `None` if the compiler found too little device memory."""
    try:
        return compiles()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def device_bytes(device: jax.Device) -> int:
    """Return the memory that a program may use on a device, in bytes.

    For a CPU it is the memory of the machine or container, divided among its JAX devices.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no limit, or not Linux
        machine = min(machine, int(_CONTAINER_LIMIT.read_text()))
    return machine // jax.local_device_count()


def format_bytes(num_bytes: int) -> str:
    """Return bytes in a readable unit.

    Examples:
        >>> format_bytes(3 * 2**30)
        '3.0 GiB'
    """
    if num_bytes >= 1024 * _MIB:
        return f"{num_bytes / 1024 / _MIB:.1f} GiB"
    return f"{num_bytes / _MIB:.0f} MiB"


def memory_saving_options(
    config: ml_collections.ConfigDict, num_devices: int, platform: str
) -> list[dict[str, Any]]:
    """Return changes that save memory, from the least to the most harmful, then all at once.

    Args:
        config: The completed configuration.
        num_devices: Devices that share a batch.
        platform: `cpu`, where bfloat16 saves nothing, `gpu` or `tpu`.

    Returns:
        Values by field; a smaller crop comes with its resize.
    """
    classes, images, crop = config.batch.classes, config.batch.images, config.data.crop
    options: list[dict[str, Any]] = []
    if config.data.cache == "device":
        options.append({"data.cache": "disk"})
    if config.model.remat == "none":
        options.append({"model.remat": "full"})
    if config.model.dtype == "float32" and platform != "cpu":
        options.append({"model.dtype": "bfloat16"})
    for parts in (2, 4, 8):
        if parts > config.train.microbatches and classes * images % (parts * num_devices) == 0:
            options.append({"train.microbatches": parts})
    for fewer in dict.fromkeys(classes // share for share in (2, 3, 4, 8)):
        if fewer >= 2 and fewer * images % num_devices == 0:
            options.append({"batch.classes": fewer})
    patch = trunk_spec(config.model.trunk).patch
    unit = max(patch, 32 // patch * patch)
    for part in (3, 2):
        smaller_crop = crop * part // 4 // unit * unit
        if smaller_crop >= 64:
            resize = round(config.data.resize * smaller_crop / crop)
            options.append({"data.resize": resize, "data.crop": smaller_crop})
    if not config.model.pretrained and config.model.pool == "map":
        options += [{"model.trunk": name} for name in SCRATCH_TRUNKS if name != config.model.trunk]
    combined: dict[str, Any] = {}
    for option in options:
        combined |= option
    return [*options, combined]


def check_fits(
    need: int | None,
    has: int,
    options: Sequence[dict[str, Any]],
    compiles: Callable[[dict[str, Any]], jax.stages.Compiled | None] | None,
) -> None:
    """Refuse a program that needs more memory than the device has.

    Args:
        need: Bytes that the program needs; `None` if the compiler could not make it fit.
        has: Bytes that the device has.
        options: Changes that may need less, tried until three fit.
        compiles: Compiles the program with one of them; `None` if none can be tried.

    Raises:
        RunError: With both figures and settings that fit.
    """
    if need is not None and need <= has:
        return
    listed: list[str] = []
    for option in options:
        if len(listed) == _MOST_OPTIONS:
            break
        flags = " ".join(f"{field}={value}" for field, value in option.items())
        if compiles is None:
            listed.append(f"  {flags}")
        elif (compiled := compiles(option)) and (then := program_bytes(compiled)) <= has:
            listed.append(f"  {flags}  ({format_bytes(then)})")
    advice = "Use more devices."
    if listed:
        would = "Each of these needs less" if compiles is None else "Any of these would fit"
        advice = "\n".join([f"{would}:", *listed])
    needs = format_bytes(need) if need is not None else "more than the compiler could fit"
    raise RunError(
        f"The training step needs {needs} on each device, which has {format_bytes(has)}. Training "
        f"did not start. {advice}"
    )
