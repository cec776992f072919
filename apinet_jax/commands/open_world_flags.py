"""Flags of commands that may answer with unknown, or with the classes of a gallery."""

import argparse

from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.answers.unknown.open_world import OpenWorld
from apinet_jax.answers.unknown.scores import DEFAULT_SCORE, FALSE_ALARMS, SCORES
from apinet_jax.system.errors import InputError


def add_open_world_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--unknown", action="store_true", help="say unknown for photos of other classes"
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        metavar="P",
        help=f"share of photos of known classes that may be called unknown ({FALSE_ALARMS:g})",
    )
    parser.add_argument(
        "--unknown-score", choices=SCORES, help=f"how they are recognised ({DEFAULT_SCORE})"
    )
    parser.add_argument(
        "--gallery", action="store_true", help="answer with the classes of the run's gallery too"
    )


def read_open_world(arguments: argparse.Namespace, run: TrainedRun) -> OpenWorld:
    """Return answers other than the classes of the run.

    Raises:
        InputError: If a flag has no effect, or as `TrainedRun.open_world`.
    """
    for name in ("false_alarms", "unknown_score"):
        if getattr(arguments, name) is not None and not arguments.unknown:
            raise InputError(f"--{name.replace('_', '-')} has no effect without --unknown.")
    score = (arguments.unknown_score or DEFAULT_SCORE) if arguments.unknown else None
    given = arguments.false_alarms
    return run.open_world(
        score, FALSE_ALARMS if given is None else given, gallery=arguments.gallery
    )
