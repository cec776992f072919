"""The flags of training and evaluation, which `job` checks too before it starts processes."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath, to_path

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration, with an optional preset: FILE[:code|paper].", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, on a disk or gs://BUCKET/...; runs/NAME of the configuration by default.",
)
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "last", "What --mode eval evaluates: last, best, a step, or a folder."
)
MODEL = flags.DEFINE_string(
    "model", None, "A file of `export`, which --mode eval compares with the run in --workdir."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    True,
    "Join other processes if the environment or these flags name a job:",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first process of the job."
)
PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the job.", 1)
PROCESS = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", 0)
REPORT = flags.DEFINE_bool(
    "report", False, "Write RUN/report.html at the end, as python -m apinet_jax report does."
)
EXTEND = flags.DEFINE_bool(
    "extend", False, "Continue a run over more epochs; the learning-rate cosine is recomputed."
)


def check_flags(rest: Sequence[str]) -> None:
    """Refuse flags that cannot be meant, once they are parsed.

    Args:
        rest: Arguments that are not flags.

    Raises:
        InputError: With what is missing or unknown.
    """
    if rest:
        raise InputError(
            f"'{rest[0]}' is not an option. Options begin with --, as in --workdir=runs/x; see "
            "--help."
        )
    if MODE.value == "train" and CONFIG.value is None:
        raise InputError("There is no configuration: name one, as in --config configs/demo.py.")
    if MODE.value == "eval" and WORKDIR.value is None and not names_folder(CHECKPOINT.value):
        raise InputError("--mode eval needs the folder of a run: --workdir=runs/x.")
    if MODEL.value and (MODE.value != "eval" or WORKDIR.value is None or REPORT.value):
        raise InputError(
            "--model is compared with a run: --mode eval --workdir=runs/x --model=FILE, without "
            "--report."
        )
    if WORKDIR.value:
        to_path(WORKDIR.value)


def names_folder(checkpoint: str) -> bool:
    """Return whether --checkpoint is a folder and not last, best or a step."""
    return "/" in checkpoint or checkpoint.startswith("~")


def run_folder() -> AnyPath:
    """Return the workdir that the flags name, or the default for the configuration."""
    if WORKDIR.value:
        return to_path(WORKDIR.value)
    return Path("runs", Path(flags.FLAGS["config"].config_filename.split(":")[0]).stem)
