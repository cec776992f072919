"""Train and evaluate API-Net.

Examples:
  python -m apinet_jax.main --config configs/demo.py
  python -m apinet_jax.main --config configs/folder.py --config.data.dir=PHOTOS --workdir=runs/x
  python -m apinet_jax.main --config configs/cub.py:paper --workdir=runs/cub
  python -m apinet_jax.main --mode eval --workdir=runs/x --checkpoint=best
  python -m apinet_jax.main --mode eval --workdir=runs/x --model=x.onnx

The same command continues a run that was interrupted. Every field of the configuration can be set:
--config.optim.lr=0.02, for instance.
"""

from collections.abc import Sequence

from absl import app, flags, logging

from apinet_jax.commands import program_flags
from apinet_jax.commands.cli import parse_flags, run_with_exit_codes
from apinet_jax.system.allocator import restart_with_allocator
from apinet_jax.system.errors import InputError

flags.adopt_module_key_flags(program_flags)  # for --help


def main(argv: Sequence[str]) -> None:
    """Run the mode that the flags name."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # orbax logs every file
    program_flags.check_flags(argv[1:])
    config = program_flags.CONFIG.value
    if program_flags.DISTRIBUTED.value:
        from apinet_jax.system.hosts import initialize_job, is_multiprocess

        job = (program_flags.COORDINATOR, program_flags.PROCESSES, program_flags.PROCESS)
        initialize_job(*(flag.value for flag in job))
        if program_flags.REPORT.value and is_multiprocess():
            raise InputError(
                "--report needs a single process. Leave it out, and write the report afterwards: "
                "python -m apinet_jax report RUN."
            )
    from apinet_jax.system.compilation_cache import enable_compilation_cache

    enable_compilation_cache()
    if program_flags.MODEL.value:
        from apinet_jax.commands.export import check_file

        data_dir = None if config is None else config.data.dir
        # The default of --checkpoint is `last`, that of `export` what the run chose.
        named = program_flags.CHECKPOINT.value if flags.FLAGS["checkpoint"].present else None
        check_file(program_flags.run_folder(), named, data_dir, program_flags.MODEL.value)
    elif program_flags.MODE.value == "eval":
        from apinet_jax.evaluation import evaluate

        checkpoint = program_flags.CHECKPOINT.value
        if program_flags.names_folder(checkpoint):
            run, checkpoint = checkpoint, None
        else:
            run = program_flags.run_folder()
        evaluate(run, checkpoint, config)
    else:
        from apinet_jax.training import train

        run, checkpoint = program_flags.run_folder(), None
        train(config, run, extend=program_flags.EXTEND.value)
    if program_flags.REPORT.value:
        from apinet_jax.commands.report import write

        write(run, checkpoint)


def entry_point() -> None:
    """Run the program with its exit codes."""
    run_with_exit_codes(
        lambda: app.run(main, flags_parser=parse_flags), field_flag="--config.FIELD=VALUE"
    )


if __name__ == "__main__":
    restart_with_allocator()
    entry_point()
