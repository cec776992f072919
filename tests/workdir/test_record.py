"""The lock of a workdir, and what its record holds."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest
from tiny_runs import REPOSITORY

from apinet_jax.config import default_config, flatten
from apinet_jax.system.errors import InputError
from apinet_jax.workdir import record as run_record
from apinet_jax.workdir.lock import lock_workdir
from apinet_jax.workdir.record import begin_session, check_same_run, new_record, read_record


def test_second_process_is_refused(tmp_path):
    workdir = tmp_path / "run"
    with lock_workdir(workdir, None):
        held = (workdir / ".lock").read_text()
        with pytest.raises(InputError, match=rf"Another process \({held}\) trains in .*Wait until"):
            lock_workdir(workdir, None).__enter__()
        assert (workdir / ".lock").read_text() == held
    assert not list(workdir.iterdir())
    with lock_workdir(workdir, None):
        pass


def test_stale_pid_is_ignored(tmp_path):
    (tmp_path / ".lock").write_text("77 on another")
    with lock_workdir(tmp_path, None):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")


def test_kill_frees_the_lock(tmp_path):
    """Though the file stays."""
    code = f"""if True:
        import os, signal
        from pathlib import Path
        from apinet_jax.workdir.lock import lock_workdir
        with lock_workdir(Path({str(tmp_path)!r}), None):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / ".lock").exists()
    with lock_workdir(tmp_path, None):
        pass


def test_run_that_started_meanwhile_is_not_overwritten(tmp_path):
    """By a command that read the workdir before that run and locked it after."""
    record = new_record({}, "fingerprint", None)
    with lock_workdir(tmp_path, read_record(tmp_path)):
        begin_session(tmp_path, record, 0)
    with (
        pytest.raises(InputError, match=r"just trained in .*Start this command again"),
        lock_workdir(tmp_path, None),
    ):
        pass
    with lock_workdir(tmp_path, read_record(tmp_path)):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_locks_still_trains(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_workdir(tmp_path, None):
        pass


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, False),
        ({"model.batch_norm": "per_device"}, True),
        ({"train.microbatches": 2}, True),
        ({"train.microbatches": 2, "model.trunk": "squeezenet1_1"}, False),  # it has no BatchNorm
    ],
)
def test_other_devices_are_refused_where_batch_norm_groups_follow_them(settings, refused, tmp_path):
    config = flatten(default_config()) | {"model.trunk": "resnet18"} | settings
    record = new_record(config, "fingerprint", None, num_devices=8)
    same = (record, config, "fingerprint", tmp_path)
    assert not check_same_run(*same, extend=False, num_devices=8)
    if refused:
        with pytest.raises(InputError, match=r"devices, which BatchNorm's .*: 8 there, 4 now"):
            check_same_run(*same, extend=False, num_devices=4)
    else:
        assert not check_same_run(*same, extend=False, num_devices=4)


def test_changed_photos_are_named(tmp_path):
    config = flatten(default_config())
    record = new_record(config, "before", None)
    changes = "1 removed: 'cat/3.jpg'"
    with pytest.raises(InputError, match=r"the images \(1 removed: 'cat/3.jpg'\): before there"):
        check_same_run(record, config, "now", tmp_path, extend=False, image_changes=changes)


def test_commit_is_that_of_this_checkout(tmp_path, monkeypatch):
    """Not that of a repository in which the package is installed."""

    def git(*arguments):
        who = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        command = ["git", *who, *arguments]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=first")
    head = git("rev-parse", "HEAD")
    for package, commit in ((tmp_path, head), (tmp_path / "venv/site-packages", None)):
        (package / "apinet_jax").mkdir(parents=True)
        monkeypatch.setattr(run_record, "__file__", str(package / "apinet_jax/workdir/record.py"))
        begin_session(tmp_path / "run", record := new_record({}, "fingerprint", None), 0)
        assert record["sessions"][0]["commit"] == commit
