"""Configurations: every file builds, presets, checks, differences."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from apinet_jax.config import default_config, flatten, recorded_config, result_differences
from apinet_jax.config_checks import check_config
from apinet_jax.data.sampler import BalancedSampler, ShuffledSampler
from apinet_jax.setup.auto import choose
from apinet_jax.setup.build import make_network, make_plan, make_program
from apinet_jax.setup.loaders import make_sampler
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import make_mesh

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
# Names that scripts and notebooks rely on.
FIELDS = [
    "seed",
    "method",
    "data.name",
    "data.dir",
    "data.manual_dir",
    "data.val_fraction",
    "data.skip_unreadable",
    "data.decode",
    "data.resize",
    "data.crop",
    "data.workers",
    "data.cache",
    "batch.classes",
    "batch.images",
    "batch.tail",
    "model.trunk",
    "model.pretrained",
    "model.dtype",
    "model.hidden",
    "model.dropout",
    "model.mutual_activation",
    "model.batch_norm",
    "pairs.distance",
    "loss.reduction",
    "loss.rank_weight",
    "loss.rank_margin",
    "optim.lr",
    "optim.momentum",
    "optim.weight_decay",
    "optim.decay_bn_bias",
    "optim.epochs",
    "optim.frozen_epochs",
    "train.deterministic",
    "eval.batch_size",
    "checkpoint.every",
    "checkpoint.keep",
]


def load(path, *preset):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*preset)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_every_config_builds(path, preset):
    config = load(path, preset)
    check_config(config)
    labels = np.repeat(np.arange(40), 30)
    config.model.pretrained = None  # `auto` is resolved before
    config, _ = choose(config, labels, 1000, "cpu", num_devices=1, device_bytes=2**33)
    check_config(config)
    program = make_program(config, 40, 1200, make_mesh(jax.devices()[:1]))
    shape = (1, config.data.crop, config.data.crop, 3)
    image = jax.ShapeDtypeStruct(shape, np.float32)
    variables = jax.eval_shape(program.model.init, jax.random.key(0), image)
    assert variables["params"]["fc"]["kernel"].shape[1] == 40
    assert "python -m apinet_jax.main" in path.read_text()


def test_field_names_are_stable():
    assert set(FIELDS) <= set(flatten(default_config()))


def test_code_preset_is_that_of_the_authors():
    config = default_config()
    assert (config.batch.classes, config.batch.images) == (30, 4)
    assert (config.data.resize, config.data.crop) == (512, 448)
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.01, 0.9, 5e-4)
    assert (config.optim.epochs, config.optim.frozen_epochs) == (100, 8)
    assert (config.loss.rank_weight, config.loss.rank_margin) == (1.0, 0.05)
    assert config.model.trunk == "resnet101"
    assert config == default_config("code")


def test_presets_differ_where_paper_and_code_do():
    code, paper = flatten(default_config("code")), flatten(default_config("paper"))
    assert {name for name in code if code[name] != paper[name]} == {
        "loss.reduction",
        "model.mutual_activation",
        "pairs.distance",
    }
    with pytest.raises(InputError, match=r"'papr'.*code, paper"):
        default_config("papr")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.crop", 600, r"data\.crop = 600 is larger than data\.resize = 512"),
        ("batch.tail", "wrap", r"batch\.tail = 'wrap': valid are drop, carry"),
        ("method", "triplet", "valid are apinet, softmax"),
        ("pairs.distance", "cosine", "valid are sq_euclidean, euclidean"),
        ("data.val_fraction", 1.0, "below 1"),
        ("model.dropout", -0.1, "at least 0"),
        ("model.drop_path", 1.0, "below 1"),
        ("optim.epochs", 0.0, "above 0"),
        ("optim.epochs", 1e300, "at most 1e12"),
        ("batch.images", 0, "at least 1"),
        ("data.workers", -1, "at least 0"),
        ("model.mean", (123.0, 116.0, 103.0), "from 0 to 1, of pixels divided by 255"),
        ("model.mean", (-0.1, 0.5, 0.5), "three numbers from 0 to 1"),
        ("model.std", (58.0, 57.0, 57.0), "three numbers above 0 and at most 1"),
        ("model.std", (0.0, 0.2, 0.2), "three numbers above 0 and at most 1"),
        ("optim.warmup_epochs", 100.0, "must be less than optim.epochs = 100"),
    ],
)
def test_invalid_values(field, value, message):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        check_config(config)


NUMBERS = [name for name, value in flatten(default_config()).items() if isinstance(value, float)]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_are_finite(value):
    assert len(NUMBERS) > 10
    for field in NUMBERS:
        config = default_config()
        config.update_from_flattened_dict({field: float(value)})
        with pytest.raises(InputError, match=rf"{field} = {value}: must be a finite number"):
            check_config(config)


def test_all_wrong_values_are_listed_at_once():
    config = default_config()
    config.update_from_flattened_dict({"batch.tail": "wrap", "optim.lr": 0.0})
    with pytest.raises(InputError, match=r"(?s)batch\.tail.*optim\.lr|optim\.lr.*batch\.tail"):
        check_config(config)


# New value of each field of the model, the pairs, the loss or the optimizer, and other changes.
CHANGES = {
    "model.trunk": ("resnet10_w16", {}),
    "model.mean": ((0.1, 0.2, 0.3), {}),
    "model.std": ((0.1, 0.2, 0.3), {}),
    "model.dtype": ("bfloat16", {}),
    "model.pool": ("token", {"model.trunk": "test_vit"}),
    "model.batch_norm": ("per_device", {}),
    "model.remat": ("full", {}),
    "model.hidden": (64, {}),
    "model.dropout": (0.1, {}),
    "model.drop_path": (0.1, {"model.trunk": "convnext_tiny"}),
    "model.mutual_activation": ("relu", {}),
    "model.mutual": ("sum", {}),
    "model.gates": ("alone", {}),
    "model.interaction": ("self", {}),
    "pairs.distance": ("euclidean", {}),
    "pairs.choice": ("random", {}),
    "pairs.kinds": ("intra", {}),
    "loss.reduction": ("paper", {}),
    "loss.rank_weight": (2.0, {}),
    "loss.rank_margin": (0.5, {}),
    "loss.label_smoothing": (0.1, {}),
    "loss.ungated_weight": (1.0, {}),
    "loss.contrast_weight": (1.0, {}),
    "loss.dropout_samples": (8, {}),
    "optim.rule": ("adamw", {}),
    "optim.lr": (0.5, {}),
    "optim.head_lr_factor": (3.0, {}),
    "optim.momentum": (0.5, {}),
    "optim.nesterov": (True, {}),
    "optim.weight_decay": (0.1, {}),
    "optim.decay_bn_bias": (False, {"optim.weight_decay": 0.1}),
    "optim.epochs": (7.0, {}),
    "optim.warmup_epochs": (1.0, {}),
    "optim.frozen_epochs": (0.0, {}),
}
ELSEWHERE = {
    "model.pretrained",  # tests/runs/test_outputs.py
    "optim.ema",  # tests/runs/test_resume.py
}


def behaviour(**fields):
    """Network, preprocessing and objective of a program, and what its optimizer does."""
    config = default_config()
    config.update_from_flattened_dict({"optim.epochs": 4.0, "optim.frozen_epochs": 1.0, **fields})
    check_config(config)
    program = make_program(config, 30, 240, make_mesh())  # two steps an epoch
    layer = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    params = {"trunk": layer, "fc": layer}
    state, updates = program.optimizer.init(params), []
    for step in range(4):
        gradient = jax.tree.map(lambda x, step=step: x * step + 0.5, params)
        update, state = program.optimizer.update(gradient, state, params)
        updates.append(jax.tree.leaves(jax.tree.map(lambda x: x.tolist(), update)))
    return [program.model, program.preprocess, program.objective, program.plan, updates]


@cache
def unchanged(fields):
    return behaviour(**dict(fields))


@pytest.mark.parametrize("field", CHANGES)
def test_every_switch_reaches_the_program(field):
    value, others = CHANGES[field]
    assert behaviour(**others, **{field: value}) != unchanged(tuple(others.items()))


def test_no_switch_is_forgotten():
    groups = ("model.", "pairs.", "loss.", "optim.")
    fields = {field for field in flatten(default_config()) if field.startswith(groups)}
    assert fields == CHANGES.keys() | ELSEWHERE


def test_plan():
    config = default_config()
    plan = make_plan(config, 5994)
    assert (plan.batch_size, plan.epoch, plan.total, plan.frozen) == (120, 49, 4900, 392)
    assert [step for step in range(100) if plan.evaluates(step)] == [49, 98]
    assert plan.evaluates(4900)


def test_too_long_run_is_refused():
    config = default_config()
    config.optim.epochs = 1e9
    with pytest.raises(InputError, match=r"optim\.epochs = 1e\+09 are .* at most 1e\+07"):
        make_plan(config, 5994)


@pytest.mark.parametrize(
    ("method", "sampler", "expected"),
    [
        ("apinet", None, BalancedSampler),
        ("apinet", "shuffled", ShuffledSampler),
        ("softmax", None, ShuffledSampler),
        ("softmax", "balanced", BalancedSampler),
    ],
)
def test_default_sampler_follows_the_method(method, sampler, expected):
    config = default_config()
    config.method, config.batch.sampler, config.optim.epochs = method, sampler, 1.0
    check_config(config)
    labels = np.repeat(np.arange(40), 30)
    assert type(make_sampler(config, labels, make_plan(config, len(labels)))) is expected


def test_default_sampler_equals_its_name():
    old = flatten(default_config())
    assert result_differences(old, {**old, "batch.sampler": "balanced"}) == []
    assert result_differences(old, {**old, "batch.sampler": "shuffled"}) == [
        ("batch.sampler", "balanced", "shuffled")
    ]


def test_differences_that_matter():
    old = flatten(default_config())
    new = {**old, "data.workers": 8, "data.dir": "elsewhere", "optim.lr": 0.02}
    assert result_differences(old, new) == [("optim.lr", 0.01, 0.02)]


def test_batch_norm_per_device_follows_the_mesh():
    config = default_config()
    config.model.batch_norm = "per_device"
    assert make_network(config, 10, num_devices=8)[0].trunk.batch_norm_groups == 8
    config.model.batch_norm = "global"
    assert make_network(config, 10, num_devices=8)[0].trunk.batch_norm_groups == 1
    config.model.batch_norm = "fixed"
    assert make_network(config, 10, num_devices=8)[0].trunk.batch_norm_groups == 0


def test_missing_field_of_an_old_run_has_its_default():
    new = flatten(default_config())
    old = {name: value for name, value in new.items() if name not in ("pairs.kinds", "optim.ema")}
    assert result_differences(old, new) == []
    assert result_differences(old, {**new, "pairs.kinds": "intra"}) == [
        ("pairs.kinds", "both", "intra")
    ]


def test_pixel_statistics_survive_json():
    new = {**flatten(default_config()), "model.mean": (0.5, 0.5, 0.5)}
    assert result_differences(json.loads(json.dumps(new)), new) == []
    config = default_config()
    config.model.std = (0.5, 0.5)
    with pytest.raises(InputError, match=r"model.std = \(0.5, 0.5\): must be three numbers"):
        check_config(config)


def test_configuration_of_an_old_run():
    config = default_config()
    config.model.trunk, config.model.mean = "resnet18", (0.5, 0.25, 0.5)
    saved = json.loads(json.dumps(config.to_dict()))
    for group, name in (
        ("model", "mutual"),
        ("pairs", "kinds"),
        ("optim", "ema"),
        ("batch", "sampler"),
    ):
        del saved[group][name]
    assert flatten(recorded_config(saved)) == flatten(config)


@pytest.mark.parametrize(
    "saved",
    [
        {"optim": 3},
        {"optim": {"lr": "much"}},
        {"optim.lr": {"a": 1}},
        {"seed": [1]},
        {"model": {"trunk": {"a": None}}},
    ],
)
def test_damaged_record(saved):
    with pytest.raises(InputError, match="configuration of the run is damaged"):
        recorded_config(saved)


def test_config_is_plain_data():
    """It is saved with every checkpoint as JSON."""
    config = default_config()
    assert ml_collections.ConfigDict(config.to_dict()).to_dict() == config.to_dict()
