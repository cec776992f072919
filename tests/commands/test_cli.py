"""A wrong command line ends in one message and exit code 2."""

import subprocess
import sys

import pytest
from tiny_runs import CONFIG, REPOSITORY

from apinet_jax.commands import cli
from apinet_jax.system.errors import InputError

FOLDER = f"--config={CONFIG}"

FILES = {
    "broken.py": "def get_config():\n    return undefined_name\n",
    "syntax.py": "def get_config(:\n",
    "empty.py": "",
    "plain.py": "def get_config():\n    return {'seed': 1}\n",
    "imports.py": "import no_such_module\n",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is no configuration: name one, as in --config configs/demo.py."),
        (["--config"], "Missing value for flag --config."),
        ([FOLDER, "--nosuch=1"], "Unknown command line flag 'nosuch'."),
        ([FOLDER, "--mode=trian"], "flag --mode=trian: value should be one of <train|eval>."),
        ([FOLDER, "stray"], "'stray' is not an option. Options begin with --"),
        (["--config=none.py"], "There is no configuration file 'none.py'."),
        (["--config", "none.py", "--config.seed=1"], "There is no configuration file 'none.py'."),
        (["--config=."], "There is no configuration file '.'."),
        (["--config=broken.py"], "broken.py, line 2: NameError: name 'undefined_name' is not"),
        (["--config=syntax.py"], "syntax.py, line 1: SyntaxError: invalid syntax"),
        (["--config=empty.py"], "empty.py has no function get_config(); see configs/demo.py"),
        (["--config=plain.py"], "get_config() of plain.py returns no ConfigDict."),
        (["--config=imports.py"], "imports.py, line 1: ModuleNotFoundError: No module named 'no_s"),
        ([f"{FOLDER}:papr"], "Unknown preset 'papr': valid are code, paper."),
        ([FOLDER, "--config.optim.epochs=abc"], "flag --config.optim.epochs=abc: could not conv"),
        ([FOLDER, "--config.data.crop=1.5"], "flag --config.data.crop=1.5: invalid literal for"),
        ([FOLDER, "--config.optim.lrr=1"], "no field 'optim.lrr'. Did you mean optim.lr? Fields: "),
        ([FOLDER, "--noconfig.optim.x"], "no field 'optim.x'."),
        ([FOLDER, "--config.optim=1"], "flag --config.optim=1: Failed to parse '1'"),
        (["--config.seed=1"], "--config.seed changes a configuration: name one too"),
        ([FOLDER], "No image folder was named. Set data.dir to the folder"),
        (["--mode=eval"], "--mode eval needs the folder of a run: --workdir=runs/x."),
        (["--mode=eval", "--workdir=none"], "There is no checkpoint in "),
        (["--mode=eval", "--workdir=.", "--checkpoint=best"], "There is no checkpoint in "),
        (["--mode=eval", "--checkpoint=~"], "There is no checkpoint in "),
        (["--mode=eval", "--checkpoint=/tmp"], "There is no checkpoint in /tmp. Name the folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[-40:] or "nothing",
)
def test_bad_command(tmp_path, arguments, message):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "apinet_jax.main", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    error = done.stderr.partition("\nerror: ")[2]
    assert message in error
    assert "Traceback" not in done.stderr
    assert error.count("\n") <= 2


def test_errors_say_how_fields_are_set(capsys):
    def fail():
        raise InputError("Lower data.crop.")

    with pytest.raises(SystemExit):
        cli.run_with_exit_codes(fail, field_flag="--set FIELD=VALUE")
    assert capsys.readouterr().err.endswith(
        "error: Lower data.crop.\n(Set a field with --set FIELD=VALUE.)\n"
    )
