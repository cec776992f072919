"""Weights by name: fetched once, kept to their commit, and never a pickle."""

import json
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import constants
from loopback_hub import started_hub, use_hub
from ml_collections import ConfigDict
from numeric import named_tensor
from safetensors.numpy import save
from tiny_runs import config_for, draw_photos, options, run_command, settings_for

from apinet_jax.config import default_config
from apinet_jax.evaluation import evaluate
from apinet_jax.models import IMAGENET_MEAN, IMAGENET_STD, TRUNKS, variable_shapes
from apinet_jax.models.weights import recognise as recognise_module
from apinet_jax.models.weights.catalogue import PUBLISHED, Published
from apinet_jax.models.weights.hub import find_pretrained, pin_source
from apinet_jax.models.weights.recognise import recognise
from apinet_jax.models.weights.torch_names import torch_shapes
from apinet_jax.pretrained_trunk import load_trunk
from apinet_jax.setup.auto import choose
from apinet_jax.setup.build import make_network
from apinet_jax.system.errors import InputError
from apinet_jax.training import train
from apinet_jax.workdir.checkpoint import load_weights
from apinet_jax.workdir.record import sha256_of

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.125)
CONFIG = {
    "architecture": "resnet10_w16",
    "num_classes": 1000,
    "pretrained_cfg": {"input_size": [3, 288, 288], "mean": MEAN, "std": STD, "crop_pct": 0.95},
}
NAME = "timm:tiny.birds"
FIELD = "model.pretrained"


def weights_of(trunk):
    shapes = torch_shapes(variable_shapes(trunk))
    return {name: named_tensor(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def files():
    """Files of a model as timm uploads them."""
    weights = {"model.safetensors": save(weights_of("resnet10_w16"))}
    return {**weights, "config.json": json.dumps(CONFIG).encode(), "pytorch_model.bin": b"pickle"}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    """A hub with one model, and an empty cache."""
    with started_hub() as hub:
        hub.commit = hub.put("timm/tiny.birds", files)
        use_hub(hub, tmp_path, monkeypatch)
        yield hub


def test_model_is_fetched_once_with_its_pixel_statistics(hub, files, tmp_path):
    found = find_pretrained(NAME)
    assert found.path.read_bytes() == files["model.safetensors"]
    assert found.path.is_relative_to(tmp_path / "cache")
    assert found[1:] == (f"{NAME}@{hub.commit}", MEAN, STD, 288, "resnet10_w16")
    asked = [path for _, path in hub.requests]
    assert not any("pytorch_model" in path for path in asked)
    assert sum(path.startswith("/cdn/") for path in asked) == 1
    hub.requests.clear()
    assert find_pretrained(NAME) == found
    assert [method for method, _ in hub.requests] == ["HEAD"]  # is it still the newest?
    hub.stop()
    assert find_pretrained(NAME) == found


def test_trunk_of_a_model_on_the_hub(hub):
    trunk = load_trunk(NAME)
    assert (trunk.name, trunk.width, trunk.resize, trunk.crop) == ("resnet10_w16", 128, 329, 288)
    assert (trunk.source, trunk.mean, trunk.std) == (f"{NAME}@{hub.commit}", MEAN, STD)


def test_run_keeps_the_commit_of_its_model(hub, files):
    first = pin_source(NAME, None)
    assert first == f"{NAME}@{hub.commit}"
    second = hub.put("timm/tiny.birds", {**files, "config.json": b"{}"})
    assert find_pretrained(NAME).source == f"{NAME}@{second}"
    hub.requests.clear()
    assert pin_source(NAME, first) == first
    assert find_pretrained(first).mean == MEAN
    assert pin_source("timm:another", first) == "timm:another"
    assert hub.requests == []
    assert pin_source(f"{NAME}@{second}", first) == f"{NAME}@{second}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:tiny.fish",
            r"hub has no model timm/tiny\.fish, .*names are listed at http://.*/timm",
        ),
        ("timm:tiny.birds@v9", r"timm/tiny\.birds has no revision v9: see http"),
        ("timm:two words", r"two words is not the name of a model; .*=timm:resnet101"),
        ("timm:pickled", r"no model\.safetensors with a config\.json .*a pickle may run code"),
        ("timm:gated", r"only to users who accepted its terms: see http://.*/timm/gated"),
        ("timm:withdrawn", r"withdrawn could not be fetched \(.*403.*resolve/main/model\.safetens"),
    ],
)
def test_models_that_the_hub_does_not_serve(hub, name, message):
    hub.put("timm/pickled", {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
    hub.repositories["timm/gated"] = "GatedRepo"
    hub.repositories["timm/withdrawn"] = "disabled"
    with pytest.raises(InputError, match=re.compile(message, re.DOTALL)):
        find_pretrained(name)
    assert not any("pytorch_model" in path for _, path in hub.requests)


@pytest.mark.parametrize("offline", [True, False])
def test_unreachable_hub_explains_manual_download(hub, files, offline, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    hub.stop()
    with pytest.raises(InputError) as caught:
        find_pretrained(NAME)
    message = str(caught.value)
    assert ("HF_HUB_OFFLINE is set" in message) == offline
    assert ("refused" in message) != offline
    addresses = re.findall(r"^  (http://.*)$", message, re.MULTILINE)
    assert [address.removeprefix(hub.address) for address in addresses] == [
        "/timm/tiny.birds/resolve/main/model.safetensors",
        "/timm/tiny.birds/resolve/main/config.json",
    ]
    # What it says to do works.
    folder = message.rpartition(f"{FIELD}=")[2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir(parents=True)
    for address in addresses:
        file = address.rpartition("/")[2]
        (tmp_path / folder / file).write_bytes(files[file])
    path = tmp_path / folder / "model.safetensors"
    assert find_pretrained(folder) == (path, str(path), MEAN, STD, 288, "resnet10_w16")


def test_configuration_next_to_a_file(files, tmp_path):
    path = tmp_path / "birds.safetensors"
    path.write_bytes(files["model.safetensors"])
    assert find_pretrained(str(path)) == (path, str(path), None, None, None, None)
    flat = {"architecture": "resnet10_w16", **CONFIG["pretrained_cfg"]}  # as timm once wrote it
    path.with_suffix(".json").write_text(json.dumps(flat))
    assert find_pretrained(str(path)) == (path, str(path), MEAN, STD, 288, "resnet10_w16")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"mean": 0.5}',
        '{"mean": [0.5, 0.5], "std": [0.5, 0.5]}',
        '{"std": [0.5, 0, 1]}',
        '{"mean": [NaN, 0, 0]}',
        '{"mean": ["grey", 0, 0]}',
        '{"input_size": []}',
        '{"input_size": [3, 1e999, 1e999]}',
        '{"input_size": [3, 0, 0]}',
        '{"mean": [123.7, 116.3, 103.5]}',
        '{"architecture": {}}',
        "[" * 100_000,
    ],
)
def test_damaged_configuration(text, tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json .*remove it and set model\.m"):
        find_pretrained(str(tmp_path))


def test_files_without_weights(tmp_path):
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        find_pretrained(str(tmp_path))
    (tmp_path / "best.pth.tar").touch()
    with pytest.raises(InputError, match=r"pickle is not read.*convert .*best\.pth\.tar .*\.safet"):
        find_pretrained(str(tmp_path / "best.pth.tar"))


def test_unknown_weights_name_the_nearest_trunk(monkeypatch):
    few = {name: TRUNKS[name] for name in ("resnet10_w16", "resnet18", "squeezenet1_1")}
    for known in ("TRUNKS", "LISTED_TRUNKS"):  # the shapes of all take long to trace
        monkeypatch.setattr(recognise_module, known, few)
    tensors = weights_of("resnet18")
    del tensors["layer4.1.bn2.bias"]
    message = r"none of the trunks resnet10_w16, .*The nearest is resnet18: .*1 missing: layer4\.1"
    with pytest.raises(InputError, match=message):
        recognise(tensors)
    with pytest.raises(InputError, match="their 1 tensors are not those of a known trunk"):
        recognise({"encoder.weight": np.zeros((3, 3))})


def chosen(gib=4, **model):
    """What is chosen for a GPU where all is open."""
    config = default_config()
    config.model.trunk = config.model.dtype = config.data.crop = config.data.resize = None
    config.batch.classes = config.batch.images = None
    config.model.update(model)
    return choose(config, np.repeat(np.arange(40), 30), 1200, "gpu", 1, gib * 2**30)


def test_pixel_statistics_come_from_the_weights(hub):
    config, lines = chosen(pretrained=NAME)
    assert config.model.trunk == "resnet10_w16"
    assert (config.model.mean, config.model.std) == (MEAN, STD)
    assert any(line.startswith("  model.mean = (0.5, 0.4, 0.3): of the images") for line in lines)
    _, preprocess = make_network(config, 4)
    assert (preprocess.mean, preprocess.std) == (MEAN, STD)
    config, _ = chosen(pretrained=NAME, mean=(0.1, 0.1, 0.1))
    assert (config.model.mean, config.model.std) == ((0.1, 0.1, 0.1), STD)


def test_default_pixel_statistics_are_those_of_the_trunk(tmp_path, files):
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    config, lines = chosen(pretrained=str(tmp_path))
    assert config.model.mean is None
    assert not any(line.startswith("model.mean") for line in lines)
    _, preprocess = make_network(config, 4)
    assert (preprocess.mean, preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("size", "gib", "crop", "resize"),
    [(288, 24, 448, 512), (288, 5, 288, 329), (288, 3, 224, 256), (600, 5, 224, 256)],
)
def test_size_of_the_weights_is_tried_after_the_papers(size, gib, crop, resize, tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(f'{{"input_size": [3, {size}, {size}]}}')
    config, _ = chosen(gib, pretrained=str(tmp_path), trunk="resnet50")
    assert (config.data.crop, config.data.resize) == (crop, resize)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"), train=4, test=2)


SHORT = {
    "optim__epochs": 0.5,
    "data__val_fraction": 0.0,
    "data__workers": 0,
    "model__pretrained": NAME,
    "model__trunk": None,
}


def test_run_records_its_weights_and_resumes_without_them(hub, photos, files, tmp_path):
    workdir = tmp_path / "run"
    train(config_for(photos, **SHORT), workdir)
    record = json.loads((workdir / "run.json").read_text())
    source = f"{NAME}@{hub.commit}"
    sha256 = sha256_of(find_pretrained(source).path)
    assert record["pretrained"] == {"source": source, "sha256": sha256}
    assert record["config"]["model.mean"] == list(MEAN)

    hub.stop()
    shutil.rmtree(tmp_path / "cache")
    before = evaluate(workdir, "last", None)
    config = ConfigDict(load_weights(workdir).metadata["config"])
    assert make_network(config, 4)[1][:2] == (MEAN, STD)
    train(config_for(photos, **SHORT), workdir)  # it is finished; nothing is fetched
    assert evaluate(workdir, "last", None) == before
    again = json.loads((workdir / "run.json").read_text())
    assert again["config"] == record["config"]
    for other, message in {
        "timm:tiny.fish": rf"made with other settings:\n  model\.pretrained: {source} there, timm:",
        f"{NAME}@{'0' * 40}": "could not be fetched",
    }.items():
        with pytest.raises(InputError, match=message):
            train(config_for(photos, **{**SHORT, "model__pretrained": other}), workdir)


def test_auto_fetches_weights_and_keeps_them(hub, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PUBLISHED, "tf_efficientnet_lite0", Published(NAME, "MIT", 12.3))
    config = config_for(photos, **{**SHORT, "model__pretrained": "auto"})
    train(config, tmp_path / "run")
    printed = capsys.readouterr().err
    assert f"Pretrained weights: {NAME} (MIT licence; 12.3 % top-1 on ImageNet)" in printed
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["pretrained"]["source"] == f"{NAME}@{hub.commit}"
    hub.put("timm/tiny.birds", {"README.md": b"a later commit"})
    train(config, tmp_path / "run")  # keeps the weights that it began with

    hub.stop()
    shutil.rmtree(tmp_path / "cache")
    offline = re.compile("could not be fetched .*--config.model.pretrained=none", re.DOTALL)
    with pytest.raises(InputError, match=offline):
        train(config, tmp_path / "offline")
    assert not (tmp_path / "offline/run.json").exists()


@pytest.mark.slow
def test_command_line_respects_the_hub_environment(hub, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    settings = settings_for(photos, **{**SHORT, "model__trunk": "resnet10_w16"})
    code, output = run_command(options(settings, tmp_path / "run"), devices=1)
    assert code == 0, output
    assert f"The trunk starts from {NAME}@{hub.commit}." in output
    settings["model.pretrained"] = "timm:tiny.fish"
    code, output = run_command(options(settings, tmp_path / "other"), devices=1)
    assert code == 2, output
    assert "error: The hub has no model timm/tiny.fish" in output
    assert "Traceback" not in output
