"""`job` divides the machine's GPUs and checks its options; `test_hosts.py` tests running jobs."""

import subprocess
import sys

import pytest
from absl.testing import flagsaver

import apinet_jax.commands.job  # noqa: F401 - defines the flags
from apinet_jax.__main__ import run_command
from apinet_jax.system.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(autouse=True)
def unparsed_flags():
    with flagsaver.flagsaver():
        yield


def script(path, *lines):
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("machine", "shown", "expected"),
    [
        ("0 1 2 3", None, ["0,1", "2,3"]),
        ("0 1 2 3", "3,1,2", ["3", "1"]),
        ("0 1", "GPU-5ae,GPU-07f", ["GPU-5ae", "GPU-07f"]),
        ("0", None, ["unset", "unset"]),  # too few: the processes share all
        ("0 1", "", ["", ""]),
    ],
)
def test_gpus_are_divided(machine, shown, expected, tmp_path, monkeypatch):
    script(tmp_path / "nvidia-smi", f"printf '%s\\n' {machine}")
    notes = 'echo "${CUDA_VISIBLE_DEVICES-unset}" >' + f'{tmp_path}/"${{@: -1}}"'
    monkeypatch.setattr(sys, "executable", str(script(tmp_path / "python", notes)))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    run_command(["job", "2", "--config", "configs/demo.py"])
    found = [(tmp_path / f"--process_id={index}").read_text().rstrip("\n") for index in range(2)]
    assert found == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config=none.py"], "There is no configuration file 'none.py'"),
        (["--config=configs/demo.py", "--config.optim.epoch=1"], "no field 'optim.epoch'"),
        (["--config=configs/demo.py", "stray"], "'stray' is not an option"),
        (["--workdir=runs/x"], "There is no configuration: name one"),
        (["--mode=eval"], "--mode eval needs the folder of a run"),
        (["--config=configs/demo.py", "--workdir=s3://x"], "s3://x"),
    ],
)
def test_wrong_options_are_reported_once(options, message, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # no process starts
    monkeypatch.setattr(sys, "argv", ["job", *options])  # ml_collections reads it
    with pytest.raises(InputError, match=message):
        run_command(["job", "2", *options])
