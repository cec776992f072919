"""Sweep files, read and checked before training starts."""

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import ml_collections

from apinet_jax.config import FREE_FIELDS, flatten
from apinet_jax.config_checks import check_config
from apinet_jax.models import check_trunk
from apinet_jax.setup.config_file import find_sweep, parse_change, read_config
from apinet_jax.system.errors import InputError

Metric = Literal["test", "validation"]


class Sweep(NamedTuple):
    """A grid of settings over seeds.

    Attributes:
        base: Configuration file that every run starts from, with an optional preset.
        settings: Fields that all runs change, by dotted name.
        cells: Fields that each cell changes in addition, by the cell's name.
        reference: The cell that the others are compared with.
        seeds: Seeds of every cell.
        more_seeds: Additional seeds of some cells.
        metric: Accuracy after the last epoch on test images, or on held-out images for tuning.
    """

    base: str
    settings: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    reference: str
    seeds: Sequence[int] = (0, 1)
    more_seeds: dict[str, Sequence[int]] = {}  # noqa: RUF012 - never changed
    metric: Metric = "test"

    def runs(self) -> list[tuple[str, int]]:
        """Return all runs, seed by seed, so that an interrupted sweep has comparable cells."""
        first = [(cell, seed) for seed in self.seeds for cell in self.cells]
        return first + [(cell, seed) for cell, seeds in self.more_seeds.items() for seed in seeds]

    def identity(self, cell: str) -> dict[str, Any]:
        """Return the settings that a finished run must share with the cell to be counted.

        Locations of files and settings that do not change results are left out.
        """
        settings = {"base": self.base, **self.settings, **self.cells[cell]}
        kept = {field: value for field, value in settings.items() if field not in FREE_FIELDS}
        if pretrained := settings.get("model.pretrained"):
            kept["model.pretrained"] = Path(pretrained).name
        return kept


def read_sweep(path: Path | str, changes: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and check the settings of every cell.

    Args:
        path: The file, which defines `get_sweep()`.
        changes: FIELD=VALUE for all runs.

    Raises:
        InputError: If the file, a field or a value is wrong.
    """
    sweep = _loaded(path)
    try:
        config = read_config(sweep.base)
    except InputError as error:
        raise InputError(f"{path} starts from {sweep.base}. {error}") from error
    given = dict(parse_change(change, config) for change in changes)
    for cell, own in sweep.cells.items():
        if both := sorted(set(given) & set(own)):
            raise InputError(
                f"--set {both[0]}: cell '{cell}' of {path} sets it too, so it cannot be set for "
                "all runs. Change the file."
            )
    sweep = sweep._replace(settings={**sweep.settings, **given})
    _check_runs(path, sweep)
    for cell, own in sweep.cells.items():
        try:
            _check_settings(config, {**sweep.settings, **own})
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"Cell '{cell}' of {path}: {error}") from error
    return sweep


def _loaded(path: Path | str) -> Sweep:
    path = find_sweep(str(path))
    try:
        get_sweep = runpy.run_path(str(path)).get("get_sweep")
        sweep = get_sweep() if get_sweep else None
    except Exception as error:  # a sweep file is a program and may fail in any way
        raise InputError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    if get_sweep is None:
        raise InputError(f"{path} defines no get_sweep(); see configs/sweeps for examples.")
    if not isinstance(sweep, Sweep):
        raise InputError(
            f"get_sweep() of {path} returns a {type(sweep).__name__}, not a "
            "apinet_jax.sweeps.spec.Sweep; see configs/sweeps for examples."
        )
    return sweep


def _check_runs(path: Path | str, sweep: Sweep) -> None:
    """Refuse an unknown reference or metric, and invalid seeds."""
    for cell in (sweep.reference, *sweep.more_seeds):
        if cell not in sweep.cells:
            what = "reference" if cell == sweep.reference else "cell of more_seeds"
            raise InputError(f"The {what} '{cell}' of {path} is not one of its cells.")
    if sweep.metric not in get_args(Metric):
        valid = ", ".join(get_args(Metric))
        raise InputError(f"The metric '{sweep.metric}' of {path}: valid are {valid}.")
    for seeds in (sweep.seeds, *sweep.more_seeds.values()):
        integers = isinstance(seeds, Sequence) and all(type(seed) is int for seed in seeds)
        if not integers or min(seeds, default=0) < 0:
            raise InputError(f"{path} has the seeds {seeds!r}: give integers from 0, as in (0, 1).")
    runs = sweep.runs()
    if twice := [run for run in runs if runs.count(run) > 1]:
        raise InputError(f"{path} asks for cell '{twice[0][0]}', seed {twice[0][1]} twice.")


def _check_settings(config: ml_collections.ConfigDict, settings: dict[str, Any]) -> None:
    """Refuse settings with which no run could start."""
    if "seed" in settings:
        raise InputError("the seed cannot be a setting; a sweep has `seeds`")
    for field, value in settings.items():
        if field not in flatten(config):
            raise InputError(f"it sets {field}, which is not a field")
        if value is None:
            raise InputError(f"it sets {field} to None; leave out what the program should choose")
    trial = config.copy_and_resolve_references()
    trial.update_from_flattened_dict(settings)
    check_config(trial)
    model = trial.model
    check_trunk(model.trunk, trial.data.crop, model.pool, model.drop_path)
