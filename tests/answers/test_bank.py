"""Features and logits of a split are those of its photos, and are computed once."""

import numpy as np
import pytest

import apinet_jax
from apinet_jax.answers import bank as bank_module
from apinet_jax.system.errors import InputError


def test_bank_equals_the_photos(run, photos):
    bank = run.bank("test")
    files = [photos / name for name in bank.source.file_names]
    found = run.describe(files)
    np.testing.assert_allclose(bank.features, found.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bank.logits, found.logits, rtol=1e-5, atol=1e-5)
    linear = bank.features @ run.kernel + run.bias
    np.testing.assert_allclose(linear, bank.logits, rtol=1e-4, atol=1e-4)


def test_bank_is_computed_once(run, workdir, monkeypatch):
    first = run.bank("validation")
    monkeypatch.setattr(bank_module, "_compute", lambda *_: pytest.fail("computed again"))
    again = apinet_jax.load(workdir).bank("validation")
    np.testing.assert_array_equal(first.features, again.features)


def test_damaged_bank_is_computed_again(run, workdir):
    expected = run.bank("validation")
    path = workdir / "answers" / f"{run.step}-validation.npz"
    path.write_bytes(path.read_bytes()[:100])
    again = apinet_jax.load(workdir).bank("validation")
    np.testing.assert_array_equal(expected.features, again.features)


def test_other_photos_are_refused(workdir, photos, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for folder in (photos / split).iterdir():
            (tmp_path / split / folder.name).symlink_to(folder)
    extra = tmp_path / "test" / "class0"
    extra.unlink()
    extra.mkdir()
    (extra / "one.png").write_bytes((photos / "test/class0/0.png").read_bytes())
    with pytest.raises(InputError, match="not the photos of the run"):
        apinet_jax.load(workdir, data_dir=str(tmp_path)).bank("test")
    with pytest.raises(InputError, match="cannot be opened"):
        apinet_jax.load(workdir, data_dir=str(tmp_path / "missing")).bank("test")


def test_gates_and_pair_logits(run, softmax_run):
    features = run.bank("test").features
    gate_1, gate_2 = run.gates(features[:3], features[3:6])
    assert ((gate_1 > 0) & (gate_1 < 1)).all()
    swapped = run.gates(features[3:6], features[:3])
    assert gate_1.shape == gate_2.shape == swapped[0].shape
    logits = run.interact(features[:3], features[3:6])
    attentive = features[:3] * (1 + gate_1)
    np.testing.assert_allclose(logits.self_1, attentive @ run.kernel + run.bias, rtol=1e-4)
    with pytest.raises(InputError, match="softmax run"):
        softmax_run.gates(features, features)
