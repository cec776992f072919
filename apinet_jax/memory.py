"""Does the program fit the device? Asked of the compiler, before the first step."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from apinet_jax.errors import RunError

_MIB = 2**20
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory that one device needs to run a compiled program, in bytes.

    Arguments, results and temporaries, less what donated arguments share with results.
    """
    need = compiled.memory_analysis()
    return (
        need.argument_size_in_bytes
        + need.output_size_in_bytes
        + need.temp_size_in_bytes
        + need.generated_code_size_in_bytes
        - need.alias_size_in_bytes
    )


def device_bytes(device: jax.Device) -> int:
    """Memory that a program may use on a device, in bytes.

    For a CPU it is the memory of the machine, or of the container, shared by the devices that stand
    for it.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # there is no limit, or not on this system
        machine = min(machine, int(_CONTAINER_LIMIT.read_text()))
    return machine // jax.local_device_count()


def human(num_bytes: int) -> str:
    """Bytes as people read them.

    >>> human(3 * 2**30)
    '3.0 GiB'
    """
    if num_bytes >= 1024 * _MIB:
        return f"{num_bytes / 1024 / _MIB:.1f} GiB"
    return f"{num_bytes / _MIB:.0f} MiB"


def smaller(config: ml_collections.ConfigDict, num_devices: int) -> list[tuple[str, Any]]:
    """Settings that need less memory, from the least to the most painful, as field and value."""
    classes, images, crop = config.batch.classes, config.batch.images, config.data.crop
    options: list[tuple[str, Any]] = []
    if config.model.dtype == "float32" and jax.default_backend() != "cpu":
        options.append(("model.dtype", "bfloat16"))
    for fewer in dict.fromkeys(classes // share for share in (2, 3, 4, 8)):
        if fewer >= 2 and fewer * images % num_devices == 0:
            options.append(("batch.classes", fewer))
    options += [("data.crop", crop * part // 4 // 32 * 32) for part in (3, 2) if crop >= 128]
    options += [
        ("model.trunk", trunk)
        for trunk in ("resnet50", "resnet18", "resnet10_w16")
        if not config.model.pretrained and trunk != config.model.trunk
    ]
    return options


def check_fits(
    need: int,
    has: int,
    options: Sequence[tuple[str, Any]],
    measure: Callable[[str, Any], int],
) -> None:
    """Refuses a program that needs more memory than the device has.

    Args:
        need: Bytes that the program needs.
        has: Bytes that the device has.
        options: Settings that may need less, as field and value, tried until three fit.
        measure: Compiles the program under one of them and returns the bytes it needs.

    Raises:
        RunError: With both figures and the settings that fit.
    """
    if need <= has:
        return
    fitting: list[str] = []
    for field, value in options:
        if len(fitting) < 3 and (bytes_then := measure(field, value)) <= has:
            fitting.append(f"  --config.{field}={value}  ({human(bytes_then)})")
    advice = "Any of these would fit:\n" + "\n".join(fitting) if fitting else "Use more devices."
    raise RunError(
        f"The training step needs {human(need)} on each device, which has {human(has)}. Nothing "
        f"was started. {advice}"
    )
