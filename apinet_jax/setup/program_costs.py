"""Costs of a compiled program by the compiler's estimate, and the least time it can take."""

import math
import re
from typing import NamedTuple

import jax

from apinet_jax.setup.memory import program_bytes

_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}
_KINDS = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "collective-broadcast",
)
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\((.*)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_IN_LOOP = "/while/body/"  # in JAX's names of operations inside a loop
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """A collective operation between devices.

    Attributes:
        kind: As in `all-reduce`.
        sizes: Number of entries of each result.
        num_bytes: Bytes of all results, on each device.
    """

    kind: str
    sizes: tuple[int, ...]
    num_bytes: int


class Costs(NamedTuple):
    """Costs of one run of a program, on each device.

    Attributes:
        flops: Floating-point operations.
        moved: Bytes read and written, without caches.
        arguments: Bytes of the arguments.
        temporaries: Bytes of intermediate values.
        program: Bytes of the machine code.
        total: Bytes in memory at once.
        collectives: Collective operations.
    """

    flops: float
    moved: float
    arguments: int
    temporaries: int
    program: int
    total: int
    collectives: tuple[Collective, ...]

    @property
    def exchanged(self) -> int:
        """Bytes that a device sends in all collectives; an all-reduce counts twice."""
        twice = ("all-reduce",)
        return sum(c.num_bytes * (2 if c.kind in twice else 1) for c in self.collectives)


class Chip(NamedTuple):
    """Peak rates of a chip by its maker, per second.

    Attributes:
        flops: Operations in bfloat16.
        bandwidth: Bytes to and from memory.
        interconnect: Bytes to and from other chips.
        memory: Bytes of memory.
    """

    flops: float
    bandwidth: float
    interconnect: float
    memory: int


# By JAX's name of the device; from cloud.google.com/tpu/docs/v5e and .../v6e, key specifications.
CHIPS = {
    "TPU v5 lite": Chip(197e12, 819e9, 400e9, 16 * 2**30),
    "TPU v6 lite": Chip(918e12, 1638e9, 800e9, 32 * 2**30),
}


def collectives_of(text: str, loops: int = 1) -> tuple[Collective, ...]:
    """Return the collectives of one run of a program, from its text.

    Args:
        text: `compiled.as_text()`.
        loops: Iterations of each loop, which the text of a TPU program does not contain.
    """
    found, seen = [], set()
    for results, kind, start, rest in _COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", text)):
        channel = _CHANNEL.search(rest)
        if channel and (kind, channel[1]) in seen:
            continue  # the TPU compiler repeats it in several fusions
        seen.add((kind, channel and channel[1]))
        arrays = [
            (math.prod(map(int, filter(None, dimensions.split(",")))), _WIDTHS.get(dtype, 4))
            for dtype, dimensions in _ARRAY.findall(results)
        ]
        if start and kind != "all-reduce":  # it lists its inputs too
            arrays = [max(arrays)]
        sizes = tuple(size for size, _ in arrays)
        exchange = Collective(kind, sizes, sum(size * width for size, width in arrays))
        found += [exchange] * (loops if _IN_LOOP in rest else 1)
    return tuple(found)


def costs_of(compiled: jax.stages.Compiled, loops: int = 1) -> Costs:
    """Return the compiler's figures for a program.

    Args:
        compiled: The program.
        loops: Iterations of each loop, such as microbatches. The compiler counts a loop's body
            once, so operations and bytes are multiplied. Work outside the loop, such as the update,
            is then counted too often.
    """
    cost, need = compiled.cost_analysis(), compiled.memory_analysis()
    return Costs(
        flops=loops * cost.get("flops", 0.0),
        moved=loops * cost.get("bytes accessed", 0.0),
        arguments=need.argument_size_in_bytes,
        temporaries=need.temp_size_in_bytes,
        program=need.generated_code_size_in_bytes,
        total=program_bytes(compiled),
        collectives=collectives_of(compiled.as_text(), loops),
    )


def roofline(costs: Costs, chip: Chip) -> tuple[float, str]:
    """Return the least seconds that a program can take on a chip, and the resource that bounds it.

    The three resources work in parallel at best, so the slowest one decides.
    """
    seconds = {
        "compute": costs.flops / chip.flops,
        "memory": costs.moved / chip.bandwidth,
        "interconnect": costs.exchanged / chip.interconnect,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return seconds[bound], bound
