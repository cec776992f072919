"""One process to a workdir, and the commit that a run was made with."""

import errno
import fcntl
import subprocess

import pytest

from apinet_jax.config import default_config, flatten
from apinet_jax.system.errors import InputError
from apinet_jax.workdir import record as run_record
from apinet_jax.workdir.lock import lock_workdir
from apinet_jax.workdir.record import begin_session, check_same_run, new_record, read_record


def test_second_process_is_turned_away_and_leaves_no_trace(tmp_path):
    workdir = tmp_path / "run"
    with lock_workdir(workdir, None):
        held = (workdir / ".lock").read_text()
        with pytest.raises(InputError, match=rf"Another process \({held}\) trains in .*Wait until"):
            lock_workdir(workdir, None).__enter__()
        assert (workdir / ".lock").read_text() == held
    assert not list(workdir.iterdir())
    with lock_workdir(workdir, None):
        pass


def test_file_that_a_kill_left_locks_nothing(tmp_path):
    (tmp_path / ".lock").write_text("77 on another")
    with lock_workdir(tmp_path, None):
        assert "another" not in (tmp_path / ".lock").read_text()


def test_run_that_began_in_between_is_not_written_over(tmp_path):
    """By a command that looked at the workdir before, and got the lock after."""
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
def test_disk_without_locks_is_used_without(code, tmp_path, monkeypatch):
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


def test_commit_is_of_this_checkout_only(tmp_path, monkeypatch):
    """Not of a repository that a package happens to be installed in."""

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
