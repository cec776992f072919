"""Configuration files for commands whose flags are not absl's: the file, and FIELD=VALUE."""

import ast
import runpy
from pathlib import Path
from typing import Any

import ml_collections

from apinet_jax.config import flatten
from apinet_jax.system.errors import InputError


def read_config(name: str) -> ml_collections.ConfigDict:
    """Runs a configuration file.

    Args:
        name: The file, with an optional preset: FILE[:code|paper].

    Raises:
        InputError: If it is not there, or fails.
    """
    file, _, preset = name.partition(":")
    if not Path(file).is_file():
        raise InputError(f"{file} is not there. Run it in the project's folder.")
    try:
        return runpy.run_path(file)["get_config"](*([preset] if preset else []))
    except InputError:
        raise
    except Exception as error:  # a configuration file is a program and may fail in any way
        raise InputError(f"{file} could not be run: {type(error).__name__}: {error}") from error


def parse_change(change: str, config: ml_collections.ConfigDict) -> tuple[str, Any]:
    """Field and value of `FIELD=VALUE`, the value in the field's type where it can be.

    Raises:
        InputError: If there is no such field.
    """
    field, equals, text = change.partition("=")
    if not equals or field not in flatten(config):
        raise InputError(f"--set {change}: there is no field '{field}' to be set.")
    *group, name = field.split(".")
    if (config[group[0]] if group else config).get_type(name) is str:
        return field, text
    try:
        return field, ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return field, text  # the check of the configuration says what is wrong with it
