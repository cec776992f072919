"""Configuration files and FIELD=VALUE, for commands that do not use absl flags."""

import ast
import difflib
import runpy
from pathlib import Path
from typing import Any

import ml_collections

import apinet_jax
from apinet_jax.config import flatten
from apinet_jax.system.errors import InputError

_PACKAGE = Path(apinet_jax.__file__).parent
# In an installed package, and in a clone.
_OURS = next((f for f in (_PACKAGE, _PACKAGE.parent) if (f / "configs").is_dir()), None)


def find_config(name: str) -> Path:
    """Return a configuration file: a path, or one of this project's by its name.

    Args:
        name: A path; or, in any folder, a name as `cub` or `configs/cub.py`.

    Raises:
        InputError: If there is no such file.
    """
    return _find(name, "configs", "configuration")


def find_sweep(name: str) -> Path:
    """Return a sweep file: a path, or one of this project's, as `heads`; see `find_config`."""
    return _find(name, "configs/sweeps", "sweep")


def _find(name: str, folder: str, kind: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    ours = (
        {} if _OURS is None else {path.stem: path for path in sorted(_OURS.glob(f"{folder}/*.py"))}
    )
    wanted = name.removeprefix(f"{folder}/").removesuffix(".py")
    if wanted in ours:
        return ours[wanted]
    near = difflib.get_close_matches(wanted, ours, 1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise InputError(
        f"There is no {kind} file '{name}'.{guess} Name a file, or one of this project's: "
        f"{', '.join(ours)}."
    )


def read_config(name: str) -> ml_collections.ConfigDict:
    """Run a configuration file.

    Args:
        name: FILE[:code|paper], the file (see `find_config`) with an optional preset.

    Raises:
        InputError: If the file is missing or fails.
    """
    file, _, preset = name.partition(":")
    path = str(find_config(file))
    try:
        return runpy.run_path(path)["get_config"](*([preset] if preset else []))
    except InputError:
        raise
    except Exception as error:  # a configuration file is a program and may fail in any way
        raise InputError(f"{file} could not be run: {type(error).__name__}: {error}") from error


def parse_change(change: str, config: ml_collections.ConfigDict) -> tuple[str, Any]:
    """Parse `FIELD=VALUE`, with the value in the field's type if possible.

    Raises:
        InputError: If there is no such field.
    """
    field, equals, text = change.partition("=")
    if not equals or field not in flatten(config):
        raise InputError(f"--set {change}: there is no field '{field}'.")
    *group, name = field.split(".")
    if (config[group[0]] if group else config).get_type(name) is str:
        return field, text
    try:
        return field, ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return field, text  # checked with the configuration
