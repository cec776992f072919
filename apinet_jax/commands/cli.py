"""The command line and the exit codes; what is wrong is the user's to read, not a traceback."""

import difflib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from apinet_jax.config import default_config, flatten
from apinet_jax.system.errors import InputError, Interrupted, RunError

_EXAMPLE = "--config configs/demo.py"


def run_with_exit_codes(run: Callable[[], None]) -> None:
    """Runs a command; it ends with the exit codes of `errors.py`."""
    try:
        run()
    except (InputError, RunError) as error:
        sys.stderr.write(f"\nerror: {error}\n")
        if not error.known_to_all_processes:
            _leave_job(error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted as interruption:
        sys.stderr.write(f"{interruption}\n")
        sys.exit(interruption.exit_code)
    except KeyboardInterrupt:  # before the run began to listen, or a second time
        _leave_job(128 + signal.SIGINT)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if not isinstance(error, OSError) or error.filename is None:
            traceback.print_exc()  # not about a file that the user could do anything about
        else:
            sys.stderr.write(f"\nerror: {error.strerror}: {error.filename}\n")
        _leave_job(RunError.exit_code)
        sys.exit(RunError.exit_code)


def _leave_job(exit_code: int) -> None:
    """Ends a process of several at once: they would wait for each other, each for another thing."""
    from apinet_jax.system import hosts

    if hosts.is_multiprocess():
        sys.stderr.flush()
        hosts.exit_now(exit_code)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags, as `app.run` wants it.

    Args:
        argv: The command line, with the program's name.

    Returns:
        What is left that is no flag, after the program's name.

    Raises:
        InputError: If a flag, the configuration's file or one of its fields is wrong.
    """
    file = _config_file(argv)
    if file is None:
        if fields := _fields_set(argv):
            raise InputError(
                f"--config.{fields[0]} changes a configuration: name that too, as in {_EXAMPLE}."
            )
    elif not Path(file).is_file():
        raise InputError(
            f"There is no configuration file '{file}'. Those of this project lie in configs/; name "
            f"one as in {_EXAMPLE}."
        )
    try:
        rest = flags.FLAGS(list(argv))
    except InputError:
        raise
    except flags.Error as error:
        raise InputError(f"{_first_line(error)} See --help.") from error
    except Exception as error:  # a configuration file is a program and may fail in any way
        raise InputError(_why(error, file, argv)) from error
    if file is not None and not isinstance(flags.FLAGS["config"].value, ConfigDict):
        raise InputError(
            f"get_config() of {file} returns no ConfigDict. Let it begin with "
            "apinet_jax.config.default_config(), as in configs/demo.py."
        )
    return rest


def _config_file(argv: Sequence[str]) -> str | None:
    """The file that `--config FILE[:preset]` names last, without the preset."""
    file = None
    for index, argument in enumerate(argv):
        if argument == "--":
            break
        name, given, value = argument.partition("=")
        if name in ("--config", "-config"):
            if not given and index + 1 < len(argv):
                value = argv[index + 1]
            file = value.split(":")[0] or None
    return file


def _fields_set(argv: Sequence[str]) -> list[str]:
    """The fields that the command line sets, by their dotted names."""
    names = [argument.lstrip("-").partition("=")[0] for argument in argv if argument[:1] == "-"]
    names = [name.removeprefix("no") if name.startswith("noconfig.") else name for name in names]
    return [name.removeprefix("config.") for name in names if name.startswith("config.")]


def _why(error: Exception, file: str | None, argv: Sequence[str]) -> str:
    """Says what is wrong with a configuration that could not be loaded or changed."""
    what = f"{type(error).__name__}: {_first_line(error)}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {what}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if file and Path(frame.filename).absolute() == Path(file).absolute()
    ]
    if own:
        return f"{file}, line {own[-1].lineno}: {what}"
    fields = list(flatten(default_config()))
    for name in _fields_set(argv):
        if name in fields:
            continue
        group = name.rpartition(".")[0]
        inside = [field for field in fields if group and field.startswith(f"{group}.")]
        near = difflib.get_close_matches(name, fields, 1)
        guess = f" Did you mean {near[0]}?" if near else ""
        return f"There is no field '{name}'.{guess} There are: {', '.join(inside or fields)}."
    if "'get_config'" in str(error):
        return f"{file} has no function get_config(); see configs/demo.py for one."
    return f"The configuration {file or ''} could not be loaded: {what}"


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or "no message").splitlines()[0]
    return text if text.endswith((".", "?")) else f"{text}."
