"""Features on disk are computed once, shared by processes, and computed again where damaged."""

import subprocess
import sys
import time

import numpy as np
import pytest

from apinet_jax.data.feature_file import read_or_compute
from apinet_jax.system.errors import Interrupted
from apinet_jax.system.file_lock import file_lock

FEATURES = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


def never():
    raise AssertionError("nothing should be computed or waited for")


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "new" / "features.npz"
    np.testing.assert_array_equal(read_or_compute(path, "key", lambda: FEATURES, never), FEATURES)
    return path


def test_stored_features_are_read(stored):
    np.testing.assert_array_equal(read_or_compute(stored, "key", never, never), FEATURES)
    assert sorted(path.name for path in stored.parent.iterdir()) == [
        "features.lock",
        "features.npz",
    ]


def flip_a_bit(content):
    place = content.index(FEATURES.tobytes()[40:60])
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda content: content[:-90], lambda _: b"", lambda _: b"PK"]
)
def test_damage_is_noticed(stored, damage, capsys):
    stored.write_bytes(damage(stored.read_bytes()))
    again = read_or_compute(stored, "key", lambda: FEATURES + 1, never)
    np.testing.assert_array_equal(again, FEATURES + 1)
    assert "features.npz is damaged (" in capsys.readouterr().err
    np.testing.assert_array_equal(read_or_compute(stored, "key", never, never), FEATURES + 1)


def test_features_of_another_key_are_not_used(stored, capsys):
    other = read_or_compute(stored, "other", lambda: FEATURES + 1, never)
    np.testing.assert_array_equal(other, FEATURES + 1)
    assert "other images or weights" in capsys.readouterr().err


def test_failed_write_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "features.npz"
    np.testing.assert_array_equal(read_or_compute(path, "key", lambda: FEATURES, never), FEATURES)
    assert "The next run computes these features again." in capsys.readouterr().err


def test_failed_computation_leaves_nothing(tmp_path):
    def fail():
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        read_or_compute(tmp_path / "f.npz", "key", fail, never)
    assert [path.name for path in tmp_path.iterdir()] == ["f.lock"]


def test_wait_answers_signals(tmp_path):
    def stop():
        raise Interrupted(15)

    with file_lock(tmp_path / "f.lock"), pytest.raises(Interrupted):
        read_or_compute(tmp_path / "f.npz", "key", never, stop)


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from apinet_jax.data.feature_file import read_or_compute
folder = Path(sys.argv[1])
def compute():
    (folder / f"computed-{sys.argv[2]}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return np.arange(12.0, dtype=np.float32).reshape(3, 4)
def wait():
    (folder / "waited").touch()
print(read_or_compute(folder / "f.npz", "key", compute, wait).sum())
"""


def test_two_processes_compute_once(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    end = time.monotonic() + 60
    while not (tmp_path / "waited").exists() and time.monotonic() < end:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [process.communicate()[0] for process in processes] == ["66.0\n", "66.0\n"]
    assert len(list(tmp_path.glob("computed-*"))) == 1
