"""Train and evaluate API-Net.

Examples:
  python -m apinet_jax.main --config configs/demo.py
  python -m apinet_jax.main --config configs/folder.py --config.data.dir=PHOTOS --workdir=runs/x
  python -m apinet_jax.main --config configs/cub.py:paper --workdir=runs/cub
  python -m apinet_jax.main --mode eval --workdir=runs/x --checkpoint=best

The same command continues a run that was interrupted. Every field of the configuration can be set:
--config.optim.lr=0.02, for instance.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from apinet_jax.commands.cli import parse_flags, run_with_exit_codes
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import to_path

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration, with an optional preset: FILE[:code|paper].", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, on a disk or gs://BUCKET/...; runs/NAME of the configuration by default.",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "last", "What --mode eval evaluates: last, best, a step, or a folder."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    True,
    "Join other processes if the environment or these flags name a job:",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first process of the job."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the job.", 1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", 0)
_EXTEND = flags.DEFINE_bool(
    "extend", False, "Continue a run over more epochs; the learning-rate cosine is recomputed."
)


def main(argv: Sequence[str]) -> None:
    """Run the mode that the flags name."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # orbax logs every file
    if len(argv) > 1:
        raise InputError(
            f"'{argv[1]}' is not an option. Options begin with --, as in --workdir=runs/x; see "
            "--help."
        )
    config = _CONFIG.value
    workdir = _WORKDIR.value and to_path(_WORKDIR.value)
    if config is None and _MODE.value == "train":
        raise InputError("There is no configuration: name one, as in --config configs/demo.py.")
    if _DISTRIBUTED.value:
        from apinet_jax.system.hosts import initialize_job

        initialize_job(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    from apinet_jax.system.compilation_cache import enable_compilation_cache

    enable_compilation_cache()
    if _MODE.value == "eval":
        from apinet_jax.evaluation import evaluate

        if "/" in _CHECKPOINT.value or _CHECKPOINT.value.startswith("~"):  # a folder
            evaluate(_CHECKPOINT.value, config=config)
        elif workdir is None:
            raise InputError("--mode eval needs the folder of a run: --workdir=runs/x.")
        else:
            evaluate(workdir, _CHECKPOINT.value, config)
        return

    from apinet_jax.training import train

    name = Path(flags.FLAGS["config"].config_filename.split(":")[0]).stem
    train(config, workdir or Path("runs", name), extend=_EXTEND.value)


def entry_point() -> None:
    """Run the program with its exit codes."""
    run_with_exit_codes(lambda: app.run(main, flags_parser=parse_flags))


if __name__ == "__main__":
    entry_point()
