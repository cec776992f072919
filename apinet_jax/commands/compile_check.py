r"""Compile the program of a configuration for TPUs without having any, and print its costs.

The TPU's own compiler, which runs on this machine, estimates whether the program fits, the least
time of a step, and the time and chip-hours of the run. A compilation takes minutes. The compiler is
installed with pip install "apinet_jax[tpu]", or pip install libtpu.

Examples:
  python -m apinet_jax compile_check --config configs/cub.py --topology v5e:2x4
  python -m apinet_jax compile_check --config configs/cub.py --topology v5e:2x4 \
      --topology v6e:2x4 --set model.trunk=resnet50 --set train.microbatches=2
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from apinet_jax.config_checks import check_config
from apinet_jax.data.catalog import OFFICIAL, official_counts
from apinet_jax.setup.config_file import parse_change, read_config
from apinet_jax.system.console import print_result, say
from apinet_jax.system.errors import InputError, RunError

# The environment in which the compiler runs without a TPU.
_ON_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several commands at once
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_PLATFORMS": "cpu",
}
_MOST_OPTIONS = 2  # that are printed: each takes minutes to try


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", required=True, help="configuration: FILE[:code|paper]")
    parser.add_argument(
        "--topology",
        action="append",
        required=True,
        metavar="CHIP:AxB",
        help="chips and their layout, as in v5e:2x4; may be repeated",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="another value of a field, as in model.trunk=resnet50",
    )
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        metavar=("TRAIN", "CLASSES"),
        help="size of the data set, if it is not on this machine",
    )


class _Row(NamedTuple):
    """Figures of one topology: a cell for each line of the table."""

    cells: dict[str, str]
    fits: bool


def run(arguments: argparse.Namespace) -> None:
    """Compile for each topology and print a table.

    Raises:
        InputError: If the configuration, a setting or a topology is wrong, or the compiler missing.
        RunError: If the program does not fit one of the topologies.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("The TPU compiler is not installed: pip install libtpu (it needs no TPU).")
    os.environ.update(_ON_NO_TPU)
    config = read_config(arguments.config)
    changes = dict(parse_change(change, config) for change in arguments.set)
    config.update_from_flattened_dict(changes)
    check_config(config)
    num_images, num_classes = arguments.images or _counts(config)
    if arguments.images and not 2 <= num_classes <= num_images:
        raise InputError(
            f"--images {num_images} {num_classes}: at least 2 classes with an image each are "
            "needed."
        )
    meshes = {name: _mesh(name) for name in arguments.topology}  # checks all names first
    rows = {
        name: _check(config, name, mesh, num_images, num_classes) for name, mesh in meshes.items()
    }
    print_result(_table(rows))
    if misfits := [name for name, row in rows.items() if not row.fits]:
        raise RunError(f"The program does not fit {', '.join(misfits)}.")


def _counts(config: ml_collections.ConfigDict) -> tuple[int, int]:
    """Numbers of training images and classes: the official ones, or those of the data."""
    if config.data.name in OFFICIAL:
        return official_counts(config.data.name)
    from apinet_jax.setup.build import make_dataset

    dataset = make_dataset(config)
    return len(dataset.train), len(dataset.class_names)


def _mesh(topology: str) -> Any:
    """The mesh of a topology's devices."""
    from jax.experimental import topologies

    from apinet_jax.system.mesh import make_mesh

    # By default the compiler expects hosts of four chips.
    single = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    try:
        described = topologies.get_topology_desc(topology, "tpu", **single)
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"There is no topology '{topology}' ({first_line}). Give a chip and a layout, as in "
            "v5e:2x4 or v6e:4x4."
        ) from error
    return make_mesh(list(described.devices))


def _check(
    config: ml_collections.ConfigDict, topology: str, mesh: Any, num_images: int, num_classes: int
) -> _Row:
    """Compile both steps for a topology."""
    import jax

    from apinet_jax.setup import memory
    from apinet_jax.setup.auto import choose
    from apinet_jax.setup.build import make_program
    from apinet_jax.setup.compile import compile_eval_step, compile_train_step
    from apinet_jax.setup.loaders import eval_batch_size
    from apinet_jax.setup.memory import format_bytes
    from apinet_jax.setup.program_costs import CHIPS, costs_of, roofline
    from apinet_jax.setup.weights import AUTO, choose_weights
    from apinet_jax.system.mesh import check_divisible

    kind = mesh.devices.flat[0].device_kind
    chip = CHIPS.get(kind)
    if chip is None:
        raise InputError(f"The rates of {kind} are unknown; choose v5e or v6e.")
    labels = np.arange(num_images) % num_classes
    config = config.copy_and_resolve_references()
    if config.model.pretrained == AUTO:
        config.model.trunk = choose_weights(config.model.trunk, "tpu", mesh.size, chip.memory).trunk
    config.model.pretrained = None  # only shapes are compiled
    config, choices = choose(config, labels, num_images, "tpu", mesh.size, chip.memory)
    say(*(line for line in choices if not line.startswith("WARNING")))  # about accuracy, not costs
    batch_size = config.batch.classes * config.batch.images
    check_divisible(batch_size, mesh, "batch.classes x batch.images", config.train.microbatches)

    def compiled(changes: dict[str, Any]) -> jax.stages.Compiled | None:
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(changes)
        program = make_program(other, num_classes, num_images, mesh)
        return memory.compile_unless_too_large(
            partial(compile_train_step, other, program, mesh, "full")
        )

    say(f"Compiling the training step for {topology}, {mesh.size} x {kind} ...")
    step = compiled({})
    need = memory.program_bytes(step) if step else None
    if step is None or need > chip.memory:
        return _Row(_misfit(config, mesh, chip.memory, need, compiled), fits=False)
    costs = costs_of(step, config.train.microbatches)
    if config.train.microbatches > 1:
        say("Operations and bytes are those of a microbatch times their number.")
    say(f"Compiling the evaluation step for {topology} ...")
    program = make_program(config, num_classes, num_images, mesh)
    evaluation = costs_of(compile_eval_step(config, program, mesh))
    seconds, bound = roofline(costs, chip)
    eval_seconds, _ = roofline(evaluation, chip)
    hours = seconds * program.plan.total / 3600
    eval_batch = eval_batch_size(config, mesh)
    by_kind: dict[str, list[int]] = {}
    for exchange in costs.collectives:
        by_kind.setdefault(exchange.kind, []).append(exchange.num_bytes)
    return _Row(
        {
            "chips": f"{mesh.size} x {kind}",
            "batch": f"{config.batch.classes} x {config.batch.images} at {config.data.crop}",
            "memory of a chip": format_bytes(chip.memory),
            "needed": f"{format_bytes(costs.total)} ({100 * costs.total / chip.memory:.0f} %)",
            "  arguments": format_bytes(costs.arguments),
            "  temporaries": format_bytes(costs.temporaries),
            "  program": format_bytes(costs.program),
            "operations a step": f"{costs.flops / 1e12:.2f} T a chip",
            "bytes moved a step": f"{costs.moved / 1e9:.2f} GB a chip",
            "operations a byte": f"{costs.flops / costs.moved:.0f}",
            **{
                f"  {name}": f"{len(sizes)}, {sum(sizes) / 1e6:.1f} MB"
                for name, sizes in sorted(by_kind.items())
            },
            "least time a step": f"{1000 * seconds:.1f} ms ({bound})",
            "most images/s": f"{batch_size / seconds:.0f}",
            "most images/s, evaluating": f"{eval_batch / eval_seconds:.0f}",
            "steps": str(program.plan.total),
            "least time of the run": f"{hours:.2f} h, {hours * mesh.size:.1f} chip-hours",
        },
        fits=True,
    )


def _misfit(
    config: ml_collections.ConfigDict,
    mesh: Any,
    has: int,
    need: int | None,
    compiled: Callable[[dict[str, Any]], Any],
) -> dict[str, str]:
    """Figures of a program that does not fit, and settings that would."""
    from apinet_jax.setup import memory
    from apinet_jax.setup.memory import format_bytes

    needed = "more than the compiler could fit"
    if need is not None:
        needed = f"{format_bytes(need)}, {format_bytes(need - has)} too much"
    fitting: list[str] = []
    for changes in memory.memory_saving_options(config, mesh.size, mesh.devices.flat[0].platform):
        if len(fitting) == _MOST_OPTIONS:
            break
        flags = " ".join(f"--set {field}={value}" for field, value in changes.items())
        say(f"It does not fit; trying {flags} ...")
        program = compiled(changes)
        if program is not None and (then := memory.program_bytes(program)) <= has:
            fitting.append(f"{flags} ({format_bytes(then)})")
    return {
        "chips": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "batch": f"{config.batch.classes} x {config.batch.images} at {config.data.crop}",
        "memory of a chip": format_bytes(has),
        "needed": needed,
        "would fit": "; ".join(fitting) or "more chips",
    }


def _table(rows: dict[str, _Row]) -> list[str]:
    """The table, with a column for each topology."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row.cells))
    head = ["the compiler's estimates", *rows]
    body = [[name, *(row.cells.get(name, "") for row in rows.values())] for name in names]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
