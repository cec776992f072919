"""`job` shares out what this machine has; how jobs run and end is `test_hosts.py`'s."""

import sys

import pytest

from apinet_jax.__main__ import run_command


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
        ("0", None, ["unset", "unset"]),  # too few: the processes share what they find
        ("0 1", "", ["", ""]),
    ],
)
def test_gpus_are_shared_out(machine, shown, expected, tmp_path, monkeypatch):
    script(tmp_path / "nvidia-smi", f"printf '%s\\n' {machine}")
    notes = 'echo "${CUDA_VISIBLE_DEVICES-unset}" >' + f'{tmp_path}/"${{@: -1}}"'
    monkeypatch.setattr(sys, "executable", str(script(tmp_path / "python", notes)))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    run_command(["job", "2", "--config", "configs/demo.py"])
    told = [(tmp_path / f"--process_id={index}").read_text().rstrip("\n") for index in range(2)]
    assert told == expected
