"""Laptop mode: cached features give the run that the frozen trunk gives from pixels."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from same_runs import RECIPE, assert_same_run, program_of
from tiny_runs import config_for, draw_photos, save_trunk, train

import apinet_jax
from apinet_jax import feature_cache
from apinet_jax.data.crops import CachedViews, RandomCrop
from apinet_jax.data.transforms import center_crop, draw_view
from apinet_jax.feature_cache import cached_features, digest_of, feature_key
from apinet_jax.method.optim import TRUNK
from apinet_jax.method.steps import train_step
from apinet_jax.method.trunk_pass import Preprocess
from apinet_jax.models.tiny import Tiny
from apinet_jax.models.weights.recognise import read_weights
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.setup.build import fresh_state, load_pretrained
from apinet_jax.setup.loaders import make_reader, make_train_loader
from apinet_jax.system.errors import Interrupted
from apinet_jax.system.paths import records_root
from apinet_jax.workdir.checkpoint import load_weights
from benchmarks.in_memory import Trainer

LAPTOP = {
    **RECIPE,
    "data__workers": 0,
    "eval__every": 1.0,
    "train__features": "cache",
    "train__views": 2,
}


class InEvaluationMode(Tiny):
    """The trunk with its running BatchNorm statistics, whatever it is asked for."""

    def __call__(self, images, train):
        return super().__call__(images, False)


@pytest.fixture(scope="module", autouse=True)
def own_records(tmp_path_factory):
    """A separate folder of prepared records and features, because tests remove them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("records")))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def config(photos, tmp_path_factory):
    weights = save_trunk(tmp_path_factory.mktemp("weights") / "trunk.safetensors")
    return config_for(photos, **LAPTOP, model__pretrained=str(weights))


@pytest.fixture(scope="module")
def reference(config, tmp_path_factory):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    train(config, workdir)
    return workdir


@pytest.fixture
def computed(monkeypatch):
    """The titles of what is computed during a test."""
    titles, apply = [], feature_cache.apply_to_split

    def watched(step, loader, mesh, title, *rest):
        titles.append(title)
        return apply(step, loader, mesh, title, *rest)

    monkeypatch.setattr(feature_cache, "apply_to_split", watched)
    return titles


def test_steps_equal_those_of_the_frozen_trunk(reference):
    """The same views as pixels, through the trunk in evaluation mode."""
    config, dataset, mesh, program = program_of(reference, None, 1)
    state = fresh_state(config, program, mesh)
    with jax.set_mesh(mesh):
        features = cached_features(config, dataset, program, state, mesh, lambda: None)
    cached = CachedViews(features.train, config.seed)
    loader = make_train_loader(config, dataset, program.plan, mesh, cached)
    crops = RandomCrop(
        make_reader(config, dataset.train, dataset.fingerprint),
        config.data.crop,
        config.train.view_seed,
        config.data.min_area,
    )

    def pixels(index, step, slot):
        view = draw_view(3, config.seed, step, slot)
        if view == 0:
            return center_crop(crops.reader(index), config.data.crop)
        return crops(index, view, int(dataset.train.rows[index]))

    from_pixels = make_train_loader(config, dataset, program.plan, mesh, pixels)
    frozen_model = program.model.clone(trunk=InEvaluationMode())
    settings = {
        "optimizer": program.optimizer,
        "objective": program.objective,
        "preprocess": program.preprocess,
        "stage": "frozen",
        "ema": config.optim.ema,
    }
    on_features = jax.jit(partial(train_step, model=program.model, **settings))
    on_pixels = jax.jit(partial(train_step, model=frozen_model, **settings))
    ours = theirs = state
    for step in range(6):
        key = jax.random.key(7)
        assert loader(step).image.shape == (8, 16)
        assert loader(step).image_id.tolist() == from_pixels(step).image_id.tolist()
        ours, our_metrics = on_features(ours, loader(step), key)
        theirs, their_metrics = on_pixels(theirs, from_pixels(step), key)
        np.testing.assert_allclose(our_metrics, their_metrics, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert np.any(ours.params["fc"]["kernel"] != state.params["fc"]["kernel"])


def test_training_in_memory_gives_the_same_head(reference):
    """The trainer of `benchmarks/`."""
    config, dataset, mesh, program = program_of(reference, None, 1)
    state = load_pretrained(
        fresh_state(config, program, mesh), config.model.trunk, config.model.pretrained
    )
    features = cached_features(config, dataset, program, state, mesh, lambda: None)
    trainer = Trainer(config, len(dataset.train), len(dataset.class_names))
    found = trainer.train(features.train, dataset.train.labels, config.seed).inference_params
    expected = load_weights(reference).params
    jax.tree.map(np.testing.assert_array_equal, {**found, TRUNK: expected[TRUNK]}, expected)


def test_run_classifies_pixels(reference, config, photos):
    """The checkpoint has the trunk's weights, unchanged, and gives the recorded figures."""
    expected = load_weights(reference)
    again = apinet_jax.evaluate(reference)
    recorded = json.loads((reference / "results.json").read_text())["test"]["best"]
    assert again.top1 == recorded["top1"]
    assert again.nll == pytest.approx(recorded["nll"], rel=1e-4)
    inside = {
        "params": expected.params["trunk"],
        "batch_stats": expected.batch_stats["trunk"],
    }
    tensors = read_weights(Path(config.model.pretrained), "test_tiny")
    for name, tensor in to_torch_tensors(inside).items():
        np.testing.assert_array_equal(tensor, tensors[name])
    assert len(apinet_jax.load(reference).predict([photos / "test/class0/0.png"])[0]) == 4


def test_flip_averages_mirror_images(reference, config, tmp_path):
    flipped = config.copy_and_resolve_references()
    flipped.eval.flip, flipped.optim.epochs = True, 1.0
    train(flipped, tmp_path)
    recorded = json.loads((tmp_path / "results.json").read_text())["test"]["last"]
    assert apinet_jax.evaluate(tmp_path, "last").nll == pytest.approx(recorded["nll"], rel=1e-4)


def test_resume_is_exact(reference, config, photos, tmp_path, computed):
    again = shutil.copytree(reference, tmp_path / "again")
    for step in (15, 16):
        shutil.rmtree(again / f"checkpoints/{step}", ignore_errors=True)
    shutil.rmtree(again / "checkpoints/12", ignore_errors=True)
    train(config, again)
    assert_same_run(again, reference, photos)
    assert computed == []


def test_another_run_computes_nothing(reference, config, tmp_path, computed):
    """Another head, seed and held-out images."""
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({"seed": 5, "method": "softmax", "optim.epochs": 1.0})
    train(other, tmp_path)
    assert computed == []


def test_damaged_features_are_computed_again(reference, config, photos, tmp_path, computed, capsys):
    files = (records_root() / "apinet_jax_cache").glob("features-*.npz")
    keys = {path: json.loads(str(np.load(path)["key"])) for path in files}
    of_test = [p for p, key in keys.items() if key["view"] == [0] and key["images"][1] == "test"]
    for file in of_test:
        content = bytearray(file.read_bytes())
        content[300] ^= 255
        file.write_bytes(content)
    again = tmp_path / "again"
    train(config, again)
    assert len(computed) == 1
    printed = capsys.readouterr().err
    assert any(f"{file} is damaged" in printed for file in of_test)
    assert_same_run(again, reference, photos)


def test_interrupted_computation_continues(reference, config, photos, tmp_path, computed):
    """What was complete is kept."""
    folder = records_root() / "apinet_jax_cache"
    for path in folder.glob("features-*.npz"):
        path.unlink()
    calls = []

    def check_signals():
        calls.append(1)
        if len(calls) == 5:
            raise Interrupted(15)

    _, dataset, mesh, program = program_of(reference, None, 1)
    saved = program_of(reference, None, 1)[0]
    state = fresh_state(saved, program, mesh)
    with pytest.raises(Interrupted):
        cached_features(saved, dataset, program, state, mesh, check_signals)
    assert len(list(folder.glob("features-*.npz"))) == 1
    cached_features(saved, dataset, program, state, mesh, lambda: None)
    assert len(computed) == 2 + 3  # four files


BASE = {"data__augmentation": "random_resized"}


@pytest.mark.parametrize(
    ("change", "view", "other"),
    [
        ({"data__crop": 24}, 0, True),
        ({"data__resize": 40}, 0, True),
        ({"data__decode": "scaled"}, 0, True),
        ({"model__trunk": "resnet10_w16"}, 0, True),
        ({"model__dtype": "bfloat16"}, 0, True),
        ({"model__pool": "token"}, 0, True),
        ({"model__drop_path": 0.1}, 0, False),
        ({"model__mean": (0.1, 0.2, 0.3)}, 0, True),
        ({"model__std": (0.1, 0.2, 0.3)}, 0, True),
        ({"data__augmentation": "crop"}, 1, True),
        ({"data__min_area": 0.5}, 1, True),
        ({"train__view_seed": 1}, 1, True),
        ({"data__augmentation": "crop"}, 0, False),
        ({"train__view_seed": 1}, 0, False),
        ({"model__pretrained": "elsewhere.safetensors"}, 0, False),
        ({"seed": 3, "method": "softmax", "optim__lr": 1.0, "train__views": 9}, 1, False),
        ({"model__hidden": 8, "model__dropout": 0.0, "model__gates": "alone"}, 1, False),
        ({"model__mutual": "sum", "batch__classes": 2, "eval__batch_size": 3}, 1, False),
    ],
)
def test_key_has_what_features_depend_on(reference, change, view, other):
    _, dataset, *_ = program_of(reference, None, 1)

    def key(**changes):
        config = config_for("photos", **{**BASE, **changes})
        config.model.dtype = config.model.dtype or "float32"
        preprocess = Preprocess(config.model.mean or (0, 0, 0), config.model.std or (1, 1, 1))
        return feature_key(config, preprocess, dataset.train, "images", "weights", view)

    assert (key(**change) != key()) is other


def test_key_has_images_weights_split_and_view(reference):
    config, dataset, _, program = program_of(reference, None, 1)
    inputs = [
        (dataset.train, "images", "weights", 0),
        (dataset.test, "images", "weights", 0),
        (dataset.train, "others", "weights", 0),
        (dataset.train, "images", "others", 0),
        (dataset.train, "images", "weights", 1),
        (dataset.train, "images", "weights", 2),
        (dataset.train, "images", "weights", -1),
    ]
    keys = {feature_key(config, program.preprocess, *one) for one in inputs}
    assert len(keys) == len(inputs)
    one, other = ({"w": np.zeros(3)}, {"w": np.array([0, 0, 1e-9])})
    assert digest_of(one) != digest_of(other)
    assert digest_of(one) == digest_of({"w": np.zeros(3)})
