"""The command line and the exit codes: bad input ends in a message, not in a traceback."""

import difflib
import io
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from apinet_jax.config import default_config, flatten
from apinet_jax.setup.config_file import find_config
from apinet_jax.system.console import discard_output, results_are_lost
from apinet_jax.system.errors import InputError, Interrupted, RunError

_EXAMPLE = "--config configs/demo.py"


def run_with_exit_codes(run: Callable[[], None], field_flag: str = "") -> None:
    """Run a command and exit with the codes of `errors.py`, or with 141 once `| head` has ended.

    Output that the terminal's encoding cannot show is escaped.

    Args:
        run: The command.
        field_flag: How this command sets a field, for errors that name one.
    """
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        try:
            _exit_on_errors(run, field_flag)
        finally:
            lost = results_are_lost()  # else the interpreter's own flush would fail
    except SystemExit as end:
        if end.code:
            raise
    if lost:
        sys.exit(128 + signal.SIGPIPE)


def _exit_on_errors(run: Callable[[], None], field_flag: str) -> None:
    try:
        run()
    except (InputError, RunError) as error:
        _print_error(f"\nerror: {error}\n{_hint(str(error), field_flag)}")
        if not error.known_to_all_processes:
            _leave_job(error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted as interruption:
        _print_error(f"{interruption}\n")
        sys.exit(interruption.exit_code)
    except KeyboardInterrupt:  # before the run handled signals, or a second time
        _leave_job(128 + signal.SIGINT)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if results_are_lost(error):
            return
        if isinstance(error, OSError) and error.filename is not None:
            _print_error(f"\nerror: {error.strerror}: {error.filename}\n")
        else:  # nothing that the user could act on
            _print_error(traceback.format_exc())
        _leave_job(RunError.exit_code)
        sys.exit(RunError.exit_code)


def _hint(message: str, field_flag: str) -> str:
    """Return how the fields in a message are set on this command line."""
    named = [field for field in flatten(default_config()) if "." in field and field in message]
    return f"(Set a field with {field_flag}.)\n" if field_flag and named else ""


def _print_error(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # its reader is gone
        discard_output(sys.stderr)


def _leave_job(exit_code: int) -> None:
    """End one process of several at once: each would wait for the others in another place."""
    if "jax" not in sys.modules:  # no job was joined; the import takes a second
        return
    from apinet_jax.system import hosts

    if hosts.is_multiprocess():
        hosts.exit_now(exit_code)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the flags for `app.run`; return the program's name and the other arguments.

    Raises:
        InputError: If a flag, the configuration file or one of its fields is wrong.
    """
    argv, file = _find_configs(argv)
    if file is None and (fields := _fields_set(argv)):
        raise InputError(
            f"--config.{fields[0]} changes a configuration: name one too, as in {_EXAMPLE}."
        )
    try:
        rest = flags.FLAGS(argv)
    except (InputError, BrokenPipeError):  # the latter from printing the help
        raise
    except flags.Error as error:
        raise InputError(f"{_first_line(error)} See --help.") from error
    except Exception as error:  # a configuration file is a program and may fail in any way
        raise InputError(_reason(error, file, argv)) from error
    if file is not None and not isinstance(flags.FLAGS["config"].value, ConfigDict):
        raise InputError(
            f"get_config() of {file} returns no ConfigDict. Start from "
            "apinet_jax.config.default_config(), as configs/demo.py does."
        )
    return rest


def _find_configs(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the arguments with the path in each `--config NAME[:preset]`, and the last path."""
    found, file = list(argv), None
    for index, argument in enumerate(argv):
        if argument == "--":
            break
        name, given, value = argument.partition("=")
        if name not in ("--config", "-config") or not (given or index + 1 < len(argv)):
            continue
        value, colon, preset = (value if given else argv[index + 1]).partition(":")
        if not value:
            continue
        file = str(find_config(value))
        named = f"{file}{colon}{preset}"
        found[index if given else index + 1] = f"{name}={named}" if given else named
    return found, file


def _fields_set(argv: Sequence[str]) -> list[str]:
    """Return the dotted names of the fields that the command line sets."""
    names = [argument.lstrip("-").partition("=")[0] for argument in argv if argument[:1] == "-"]
    names = [name.removeprefix("no") if name.startswith("noconfig.") else name for name in names]
    return [name.removeprefix("config.") for name in names if name.startswith("config.")]


def _reason(error: Exception, file: str | None, argv: Sequence[str]) -> str:
    """Return what is wrong with a configuration that could not be loaded or changed."""
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
        return f"There is no field '{name}'.{guess} Fields: {', '.join(inside or fields)}."
    if "'get_config'" in str(error):
        return f"{file} has no function get_config(); see configs/demo.py for one."
    return f"The configuration {file or ''} could not be loaded: {what}"


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or "no message").splitlines()[0]
    return text if text.endswith((".", "?")) else f"{text}."
