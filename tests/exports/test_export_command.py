"""`export`: files that are compared with their run, and folders that are read back."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from loopback_hub import started_hub, use_hub
from safetensors.numpy import load_file

import apinet_jax
from apinet_jax.__main__ import run_command
from apinet_jax.exports import parity as parity_module
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.paths import to_path
from apinet_jax.workdir.record import sha256_of

load = partial(apinet_jax.load, device=jax.devices()[0])


def export(run, file, format_, *options):
    run_command(["export", str(run), str(file), "--format", format_, *options])


def test_files_are_compared_with_the_run(workdir, tmp_path, capsys):
    file = tmp_path / "new/tiny.stablehlo"
    export(workdir, file, "stablehlo")
    figures = json.loads((tmp_path / "new/tiny.stablehlo.parity.json").read_text())
    assert figures["images"] == figures["same_class"] == figures["resized"] == 16
    assert figures["disagreements"] == []
    assert figures["grey_difference"] == 0
    assert figures["logit_difference"] < 1e-4
    assert figures["top1_file"] == figures["top1_run"]
    printed = capsys.readouterr().out
    assert "same class            16 of 16" in printed
    assert str(file) in printed


def test_other_answers_are_an_error(workdir, tmp_path, monkeypatch):
    class Wrong(parity_module.StableHLO):
        def classify_one(self, photo):
            return super().classify_one(photo)[:, ::-1]

    monkeypatch.setitem(parity_module.KINDS, ".stablehlo", Wrong)
    with pytest.raises(RunError, match=r"names 1[0-9] images differently"):
        export(workdir, tmp_path / "tiny.stablehlo", "stablehlo")


def test_files_of_other_checkpoints_are_refused(workdir, softmax_workdir, tmp_path):
    export(workdir, tmp_path / "tiny.stablehlo", "stablehlo", "--skip-check")
    other = load(softmax_workdir)
    with pytest.raises(InputError, match="exported from another checkpoint"):
        parity_module.measure_parity(other, tmp_path / "tiny.stablehlo")


def test_hub_folder_is_read_back(workdir, photos, tmp_path, capsys):
    folder = tmp_path / "birds"
    export(workdir, folder, "hub", "--license", "mit")
    found, run = load(folder), load(workdir)
    some = sorted(map(str, (photos / "test/class1").iterdir()))
    np.testing.assert_array_equal(found.logits(some), run.logits(some))
    assert found.provenance.step == run.provenance.step
    assert found.provenance.hash == sha256_of(folder / "model.safetensors")[:12]
    assert found.predict(some) == run.predict(some)
    assert found.compare(*some[:2]) == run.compare(*some[:2])
    assert found.explain(some[0]).difference == run.explain(some[0]).difference
    card = (folder / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "| top-1 | " in card
    assert "class3" in card
    texts = card + (folder / "config.json").read_text()
    assert str(photos) not in texts
    assert str(tmp_path) not in texts
    assert "fc.weight" in load_file(folder / "model.safetensors")
    with pytest.raises(InputError, match="exists already, and is not empty"):
        export(workdir, folder, "hub")


def test_published_networks_have_no_photos(workdir, photos, tmp_path):
    export(workdir, tmp_path / "birds", "hub")
    with pytest.raises(InputError, match=r"without the photos .* --data-dir"):
        load(tmp_path / "birds").unknown([photos / "test/class1/0.png"])
    config = json.loads((tmp_path / "birds/config.json").read_text())
    config["apinet_jax"]["config"]["data"]["dir"] = str(photos)
    (tmp_path / "birds/config.json").write_text(json.dumps(config))
    assert load(tmp_path / "birds").config.data.dir is None  # of a stranger
    with_photos = load(tmp_path / "birds", data_dir=str(photos))
    assert len(with_photos.bank("test").labels) == 16


def test_networks_on_the_hub(workdir, photos, tmp_path, monkeypatch):
    export(workdir, tmp_path / "birds", "hub")
    files = {path.name: path.read_bytes() for path in (tmp_path / "birds").iterdir()}
    with started_hub() as hub:
        hub.put("someone/birds", files)
        use_hub(hub, tmp_path, monkeypatch)
        found = load("hf:someone/birds")
        with pytest.raises(InputError, match="no model someone/other"):
            load("hf:someone/other")
    photo = photos / "test/class1/0.png"
    np.testing.assert_array_equal(found.logits([photo]), load(workdir).logits([photo]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.update(class_names=[]), "does not describe a network"),
        (lambda about: about.update(class_names=[1, 2, 3, 4]), "does not describe a network"),
        (lambda about: about.update(class_names=["a", "b"]), "of another shape: fc"),
        (lambda about: about.update(temperature=0), "does not describe a network"),
        (lambda about: about["config"].update(optim=1), "The configuration of the run is damaged"),
        (lambda about: about["config"]["model"].update(trunk="no"), "no"),
        (lambda about: about["config"]["model"].update(hidden=10**9), "of another shape: map1"),
        (lambda about: about.clear(), "does not describe a network"),
        (lambda about: about.update(step=float("inf")), "does not describe a network"),
        (lambda about: about["config"]["model"].update(dtype="x"), "model.dtype = 'x'"),
        (lambda about: about["config"]["model"].update(batch_norm="x"), "batch_norm = 'x'"),
        (lambda about: about["config"]["data"].update(crop=None), "data.crop is not set"),
        (lambda about: about["config"]["data"].update(crop=100), "is larger than data.resize"),
        (lambda about: about["config"]["data"].update(resize=10**6), "more than 4096"),
        (lambda about: about["config"]["model"].update(std=[0, 0, 0]), "model.std"),
    ],
)
def test_damaged_folders_are_refused(workdir, once, change, message, tmp_path):
    folder = once("published", lambda folder: export(workdir, folder, "hub"))
    about = json.loads((folder / "config.json").read_text())
    change(about["apinet_jax"])
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=message):
        load(to_path(str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("x.bin", ["--format", "onnx"], "should end in .onnx"),
        ("x.onnx", ["--format", "keras"], "invalid choice"),
        ("x.onnx", ["--format", "onnx", "--license", "mit"], "--license has no effect"),
        ("x.onnx", [], "required: --format"),
    ],
)
def test_refuses(workdir, tmp_path, file, options, message):
    with pytest.raises(InputError, match=message):
        run_command(["export", str(workdir), str(tmp_path / file), *options])


def test_state_dicts_for_torch(workdir, softmax_workdir, tmp_path, capsys):
    export(workdir, tmp_path / "trunk.safetensors", "torchvision")
    assert "fc.weight" not in load_file(tmp_path / "trunk.safetensors")
    assert "the trunk, under" in capsys.readouterr().out
    with pytest.raises(InputError, match="There is no map1"):
        export(softmax_workdir, tmp_path / "new.safetensors", "authors")
