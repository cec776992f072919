"""Configuration files and FIELD=VALUE, for commands that do not use absl flags."""

import ast
import runpy
from pathlib import Path
from typing import Any

import ml_collections

from apinet_jax.config import flatten
from apinet_jax.system.errors import InputError


def read_config(name: str) -> ml_collections.ConfigDict:
    """Run a configuration file.

    Args:
        name: FILE[:code|paper], the file with an optional preset.

    Raises:
        InputError: If the file is missing or fails.
    """
    file, _, preset = name.partition(":")
    if not Path(file).is_file():
        raise InputError(f"There is no {file}. Run the command in the project's folder.")
    try:
        return runpy.run_path(file)["get_config"](*([preset] if preset else []))
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
