"""What a compiled program costs by the compiler's own account, and the least time it can take."""

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
_IN_LOOP = "/while/body/"  # of the names that JAX gives to what it traces inside of a loop
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
        kind: As in `all-reduce`.
        sizes: Entries of each array that comes out of it.
        num_bytes: Bytes of all of them, on each device.
    """

    kind: str
    sizes: tuple[int, ...]
    num_bytes: int


class Costs(NamedTuple):
    """What one device needs for one run of a program.

    Attributes:
        flops: Floating-point operations.
        moved: Bytes read and written, caches not counted.
        arguments: Bytes of the arguments.
        temporaries: Bytes of what is made meanwhile.
        program: Bytes of the program itself.
        total: Bytes of all that is in memory at once.
        collectives: The exchanges.
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
        """Bytes that a device sends in all exchanges; a reduction goes there and back."""
        twice = ("all-reduce",)
        return sum(c.num_bytes * (2 if c.kind in twice else 1) for c in self.collectives)


class Chip(NamedTuple):
    """What a chip can do at best, by its maker.

    Attributes:
        flops: Operations in bfloat16 a second.
        bandwidth: Bytes between chip and memory a second.
        interconnect: Bytes to and from other chips a second.
        memory: Bytes.
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
    """The exchanges of one run of a program, from its text.

    Args:
        text: `compiled.as_text()`.
        loops: How often each of its loops runs, which the text of a TPU's program does not say.
    """
    found, seen = [], set()
    for results, kind, start, rest in _COLLECTIVE.findall(re.sub(r"/\*.*?\*/", "", text)):
        channel = _CHANNEL.search(rest)
        if channel and (kind, channel[1]) in seen:
            continue  # a compiler for TPUs writes one into several fusions
        seen.add((kind, channel and channel[1]))
        arrays = [
            (math.prod(map(int, filter(None, dimensions.split(",")))), _WIDTHS.get(dtype, 4))
            for dtype, dimensions in _ARRAY.findall(results)
        ]
        if start and kind != "all-reduce":  # it names what goes in beside what comes out
            arrays = [max(arrays)]
        sizes = tuple(size for size, _ in arrays)
        exchange = Collective(kind, sizes, sum(size * width for size, width in arrays))
        found += [exchange] * (loops if _IN_LOOP in rest else 1)
    return tuple(found)


def costs_of(compiled: jax.stages.Compiled, loops: int = 1) -> Costs:
    """Reads what the compiler says of a program.

    Args:
        compiled: The program.
        loops: How often each of its loops runs, microbatches for instance. The compiler counts
            what they do once, so its operations and bytes are taken this many times; what is done
            once, the update for instance, is then counted too often.
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
    """The least seconds that a program can take on a chip, and what bounds it.

    Its three resources work side by side at best, so the slowest of them tells.
    """
    seconds = {
        "compute": costs.flops / chip.flops,
        "memory": costs.moved / chip.bandwidth,
        "interconnect": costs.exchanged / chip.interconnect,
    }
    bound = max(seconds, key=seconds.__getitem__)
    return seconds[bound], bound
