r"""Writes a run in a form that other programs use, and proves that it gives the same answers.

  stablehlo    one file for JAX on CPUs, CUDA and TPUs; needs only jax, flatbuffers and numpy
  onnx         one file for ONNX Runtime, from photos to probabilities
  hub          a folder for the Hugging Face hub, with a model card; apinet_jax.load reads it
  authors      a state dict for the PyTorch program of the method's authors
  torchvision  the state dict of the trunk, under its names in torchvision or timm

A stablehlo or onnx file classifies all test images, and the comparison with the run is written to
FILE.parity.json. It is an error if a class differs whose margin is not small. `--mode eval
--workdir=RUN --model=FILE` repeats this for an existing file.

Examples:
  python -m apinet_jax export runs/birds birds.stablehlo --format stablehlo
  python -m apinet_jax export runs/birds birds.onnx --format onnx
  python -m apinet_jax export runs/birds birds/ --format hub --license mit
  python -m apinet_jax export runs/birds trunk.safetensors --format torchvision
"""

import argparse
from pathlib import Path
from typing import Any

from apinet_jax.answers.pairs.calibration import PairCalibration
from apinet_jax.answers.trained_run import TrainedRun, load
from apinet_jax.exports.hub_folder import write_hub_folder
from apinet_jax.exports.onnx import write_onnx
from apinet_jax.exports.parity import (
    KINDS,
    check_parity,
    measure_parity,
    parity_lines,
    write_parity,
)
from apinet_jax.exports.stablehlo import write_stablehlo
from apinet_jax.exports.torch_state import make_folder, network_of, write_authors, write_trunk
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath, local_path

_FORMATS = ("stablehlo", "onnx", "hub", "authors", "torchvision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="workdir or checkpoint; may be in a bucket")
    parser.add_argument("file", type=local_path, metavar="FILE", help="the file or folder to write")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="see above")
    parser.add_argument(
        "--checkpoint", help="last, best or a step; by default the one that the run chose"
    )
    parser.add_argument("--data-dir", help="where the photos of the run are stored now")
    parser.add_argument(
        "--skip-check", action="store_true", help="do not compare the file with the run"
    )
    parser.add_argument("--license", help="of a hub folder, as the hub names it: mit, cc-by-4.0")


def run(arguments: argparse.Namespace) -> None:
    """Write the file, compare it with the run, and print the comparison.

    Raises:
        InputError: If the run cannot be read, the file exists, or packages are missing.
        RunError: If the file cannot be written, or gives other answers than the run.
    """
    file, format_ = arguments.file, arguments.format
    if file.exists() and format_ != "hub":
        raise InputError(f"{file} exists already. Remove it, or choose another name.")
    if format_ in ("stablehlo", "onnx") and file.suffix != f".{format_}":
        raise InputError(f"{file} should end in .{format_}, as in {file.name}.{format_}.")
    if arguments.license and format_ != "hub":
        raise InputError("--license has no effect here: only a hub folder states it. Leave it out.")
    enable_compilation_cache()
    trained = load(arguments.run, arguments.checkpoint, data_dir=arguments.data_dir)
    if format_ in ("authors", "torchvision"):
        write = write_authors if format_ == "authors" else write_trunk
        lines = [f"  {write(network_of(trained.network), file)}"]
    elif format_ == "hub":
        lines = [f"  {note}" for note in write_hub_folder(trained, file, arguments.license)]
    else:
        lines = _write_program(trained, file, format_)
    print_result([f"{trained.config.model.trunk}, from {trained.checkpoint}"])
    print_result([f"  written to            {file}", *lines])
    if f".{format_}" not in KINDS or arguments.skip_check:
        return
    try:
        check(trained, file)
    except InputError as error:
        raise InputError(
            f"{file} is written, but could not be compared with the run: {error} To export without "
            "the comparison, add --skip-check."
        ) from error


def _write_program(trained: TrainedRun, file: Path, format_: str) -> list[str]:
    """Write a file that can be run, and return what it lacks."""
    make_folder(file.parent)
    if format_ == "onnx":
        write_onnx(trained.network, about_run(trained), file)
        return []
    calibration: PairCalibration | None = None
    lines = []
    try:
        calibration = trained.pair_calibration
    except InputError as error:
        lines.append(f"  without `compare`: {error}")
    write_stablehlo(trained.network, calibration, about_run(trained), file)
    return lines


def about_run(trained: TrainedRun) -> dict[str, Any]:
    """Return the description of a run that is stored in an exported file."""
    config, provenance = trained.config, trained.provenance
    return {
        "class_names": list(trained.class_names),
        "trunk": config.model.trunk,
        "method": config.method,
        "decode": config.data.decode,
        "resize": config.data.resize,
        "crop": config.data.crop,
        "temperature": trained.temperature,
        "checkpoint": provenance.hash,
        "step": provenance.step,
        "version": provenance.version,
    }


def check_file(run: AnyPath | str, checkpoint: str | None, data_dir: str | None, file: str) -> None:
    """Compare an exported file with a run; see `check`."""
    check(load(run, checkpoint, data_dir=data_dir), local_path(file))


def check(trained: TrainedRun, file: Path) -> None:
    """Compare a file with its run, and print and write the comparison.

    Raises:
        InputError: If the file is of another run, or the photos are missing.
        RunError: If it gives other answers.
    """
    parity = measure_parity(trained, file)
    written = write_parity(parity, file)
    print_result([*parity_lines(parity), f"  comparison            {written}"])
    check_parity(parity, file)
