"""Choices of the program from photos, weights and devices."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from apinet_jax.config import flatten
from apinet_jax.config_checks import check_config
from apinet_jax.models import make_trunk
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.setup import memory
from apinet_jax.setup.auto import choose
from apinet_jax.setup.build import make_program, state_initializer
from apinet_jax.setup.compile import compile_train_step
from apinet_jax.setup.sizing import batch_shapes, memory_savings, step_bytes
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import make_mesh

GIB = 2**30
FOLDER = Path(__file__).parents[2] / "configs/folder.py"
FORTY = np.repeat(np.arange(40), 30)


def open_config(**fields):
    """`configs/folder.py` without weights; `data__crop=200` sets `data.crop`."""
    config = runpy.run_path(str(FOLDER))["get_config"]()
    config.model.pretrained = None
    changes = {name.replace("__", "."): value for name, value in fields.items()}
    config.update_from_flattened_dict(changes)
    return config


def completed(config, labels=FORTY, platform="cpu", devices=1, gib=8.0, images=1000, recorded=None):
    return choose(config, labels, images, platform, devices, int(gib * GIB), recorded)


def test_a_folder_on_a_cpu():
    config, lines = completed(open_config())
    assert config.model.trunk == "resnet10_w16"
    assert (config.data.resize, config.data.crop) == (144, 128)
    assert (config.batch.classes, config.batch.images) == (30, 4)
    assert (config.optim.lr, config.optim.frozen_epochs) == (0.1, 0)
    assert config.data.cache == "disk"
    assert any("WARNING: no pretrained weights" in line for line in lines)
    chosen = [line for line in lines if not line.startswith("WARNING")]
    assert chosen[0] == "Chosen for this run; --config.FIELD=VALUE overrides:"
    assert len(chosen) > 5
    for line in chosen[1:]:
        assert re.fullmatch(r"  [a-z]+\.[a-z_]+ = \S+: .+", line)


def test_a_folder_on_a_large_gpu():
    config, _ = completed(open_config(), platform="gpu", gib=60)
    assert config.model.trunk == "resnet50"
    assert (config.data.resize, config.data.crop) == (512, 448)
    assert (config.batch.classes, config.batch.images) == (30, 4)
    assert config.model.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("trunk", "platform", "gib", "devices", "expected"),
    [  # crop, K, rematerialisation, microbatches; GiB are those that JAX may use of one device
        ("resnet50", "gpu", 60, 1, (448, 30, "none", 1)),
        ("resnet50", "gpu", 24, 1, (448, 30, "none", 1)),
        ("resnet50", "gpu", 18, 1, (448, 30, "full", 1)),
        ("resnet50", "gpu", 12, 1, (448, 30, "full", 1)),
        ("resnet50", "gpu", 9, 1, (448, 30, "full", 1)),
        ("resnet50", "gpu", 7, 1, (448, 30, "none", 4)),
        ("resnet50", "gpu", 4, 1, (448, 30, "none", 8)),
        ("resnet50", "gpu", 2, 1, (448, 30, "full", 8)),
        ("resnet50", "gpu", 1, 1, (224, 30, "full", 4)),
        ("resnet50", "gpu", 0.7, 1, (224, 26, "full", 8)),
        ("resnet50", "gpu", 4, 8, (448, 30, "none", 1)),
        ("resnet50", "gpu", 2, 8, (448, 30, "full", 1)),
        ("resnet50", "tpu", 16, 1, (448, 30, "full", 1)),
        ("resnet101", "gpu", 40, 1, (448, 30, "none", 1)),
        ("resnet101", "gpu", 16, 1, (448, 30, "full", 1)),
        ("resnet50", "cpu", 32, 1, (224, 30, "none", 1)),
        ("resnet50", "cpu", 8, 1, (224, 30, "full", 1)),
        ("resnet50", "cpu", 2, 1, (224, 30, "full", 8)),
    ],
)
def test_what_is_given_up_for_memory(trunk, platform, gib, devices, expected):
    config, lines = completed(open_config(model__trunk=trunk), FORTY, platform, devices, gib)
    check_config(config)
    model, batch, parts = config.model, config.batch, config.train.microbatches
    assert (config.data.crop, batch.classes, model.remat, parts) == expected
    assert batch.images == 4
    images = batch.classes * batch.images // devices
    size = (trunk, config.data.crop, model.dtype, images)
    need = step_bytes(*size, platform, model.remat, parts)
    assert need <= 0.85 * gib * GIB
    (line,) = [line for line in lines if line.startswith("  train.microbatches")]
    assert f"needs about {memory.format_bytes(need)} of" in line


@pytest.mark.parametrize("trunk", ["resnet101", "vit_base_patch14_dinov2"])
def test_more_memory_never_gives_up_more(trunk):
    def cost(gib):
        config, _ = completed(open_config(model__trunk=trunk), platform="gpu", gib=gib)
        way = (config.model.remat, config.train.microbatches)
        return -config.data.crop, -config.batch.classes, memory_savings().index(way)

    costs = [cost(gib) for gib in (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40)]
    assert costs == sorted(costs, reverse=True)


def test_given_savings_are_kept():
    fields = {"model__trunk": "resnet50", "train__microbatches": 3}
    config, _ = completed(open_config(**fields), platform="gpu", devices=2, gib=80)
    assert (config.model.remat, config.train.microbatches) == ("none", 3)
    assert config.batch.classes * config.batch.images % (2 * 3) == 0
    config, _ = completed(open_config(**fields, model__remat="none"), platform="gpu", gib=6)
    assert (config.model.remat, config.train.microbatches) == ("none", 3)
    assert config.batch.classes < 30


def test_record_without_later_fields_keeps_their_defaults():
    first, _ = completed(open_config(model__trunk="resnet50"), platform="gpu", gib=80)
    recorded = flatten(first)
    del recorded["model.remat"], recorded["train.microbatches"]
    again, _ = completed(open_config(), platform="gpu", gib=9, recorded=recorded)
    assert flatten(again) == flatten(first)


@pytest.mark.parametrize(
    ("trunk", "remat", "parts", "gib"),  # of an H100, docs/performance.md
    [
        ("resnet101", "none", 1, 27.9),
        ("resnet50", "none", 1, 18.5),
        ("resnet50", "full", 1, 7.4),
        ("resnet50", "none", 4, 5.2),
    ],
)
def test_estimate_against_figures_of_a_gpu(trunk, remat, parts, gib):
    need = step_bytes(trunk, 448, "bfloat16", 120, "gpu", remat, parts)
    assert need / GIB == pytest.approx(gib, rel=0.04)


@pytest.mark.parametrize(
    ("trunk", "crop", "batch"),
    [
        ("resnet18", 96, 8),
        pytest.param("resnet50", 96, 8, marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", 96, 16, marks=pytest.mark.slow),
        pytest.param("densenet121", 96, 8, marks=pytest.mark.slow),
        pytest.param("vit_base_patch16_224", 96, 8, marks=pytest.mark.slow),
        pytest.param("convnext_tiny", 96, 8, marks=pytest.mark.slow),
    ],
)
def test_estimate_against_the_compilers_figure(trunk, crop, batch):
    config, _ = completed(open_config(model__trunk=trunk, data__crop=crop))
    config.batch.classes, config.batch.images = batch // 4, 4
    config.optim.frozen_epochs = 0.0
    mesh = make_mesh(jax.devices()[:1])
    program = make_program(config, 40, 1200, mesh)
    compiled = compile_train_step(config, program, mesh, "full")
    need = memory.program_bytes(compiled)
    assert 0.6 < step_bytes(trunk, crop, "float32", batch) / need < 1.7


def test_few_classes_and_few_images():
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    config, _ = completed(open_config(), labels)
    assert (config.batch.classes, config.batch.images) == (3, 2)


def test_classes_of_one_image_still_get_two_places():
    """Copies never pair, but a class of one image must not cost larger classes their pairs."""
    labels = np.array([0, 0, 0, 0, 1, 2])
    config, _ = completed(open_config(), labels)
    assert config.batch.images == 2


@pytest.mark.parametrize(
    ("classes", "median", "devices", "expected"),
    [
        (200, 30, 1, (30, 4)),
        (200, 30, 8, (30, 4)),
        (200, 30, 16, (28, 4)),
        (5, 3, 8, (4, 4)),  # 3 images a class do not divide among 8 devices whatever K
        (2, 30, 8, (2, 4)),
        (3, 30, 8, (2, 4)),
        (2, 30, 32, (2, 16)),  # S grows where there are not enough classes
    ],
)
def test_batch_is_chosen_so_that_devices_share_it(classes, median, devices, expected):
    assert batch_shapes(classes, median, devices)[0] == expected


def test_given_classes_or_images_are_kept():
    assert batch_shapes(200, 30, 8, classes=7)[0] == (7, 8)
    assert batch_shapes(200, 30, 8, images=3)[0] == (24, 3)
    assert batch_shapes(200, 30, 8, classes=3, images=3) == [(3, 3)]  # refused by the caller
    assert batch_shapes(40, 30, 64, images=2)[0] == (32, 2)  # more classes than the paper's
    assert batch_shapes(40, 30, 64, classes=7)[0] == (7, 64)


@pytest.mark.parametrize(("classes", "images", "devices"), [(12, 2, 64), (2, 3, 8)])
def test_images_that_no_number_of_classes_suits(classes, images, devices):
    labels = np.repeat(np.arange(classes), 30)
    with pytest.raises(
        InputError, match=rf"batch\.images = {images}: {devices} devices .*multiple"
    ):
        completed(open_config(batch__images=images), labels, devices=devices)


def test_choice_for_many_devices_is_explained():
    config, lines = completed(open_config(), platform="gpu", devices=16, gib=60)
    assert config.batch.classes == 28
    assert any("16 devices share the batch equally" in line for line in lines)


def test_crop_and_resize_go_together():
    config, _ = completed(open_config(data__crop=350))
    assert config.data.resize == 400
    config, _ = completed(open_config(data__resize=400))
    assert config.data.crop == 350
    config, _ = completed(open_config(data__crop=448))
    assert config.data.resize == 512


def test_crop_is_the_one_of_the_trunk():
    """Without the size of the weights."""
    config, lines = completed(open_config(model__trunk="swin_base_patch4_window12_384"), gib=60)
    assert config.data.crop == 384
    assert "  data.crop = 384: the size that the trunk was made for" in lines


@pytest.mark.parametrize(
    ("fields", "platform", "gib", "crop"),
    [
        ({}, "cpu", 8, 224),
        ({}, "gpu", 60, 448),
        ({}, "gpu", 0.1, 126),  # nothing fits
        ({"data__resize": 400}, "cpu", 8, 350),
        ({"data__resize": 300}, "cpu", 8, 252),
    ],
)
def test_patches_fill_the_crop(fields, platform, gib, crop):
    fields["model__trunk"] = "vit_base_patch14_dinov2"
    config, _ = completed(open_config(**fields), platform=platform, gib=gib)
    assert config.data.crop == crop
    check_config(config)


def test_crop_that_patches_do_not_fill():
    config = open_config(model__trunk="vit_base_patch14_dinov2", data__crop=230)
    with pytest.raises(InputError, match=r"230x230 .* patches of 14; .*data\.crop=224"):
        completed(config)


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"model__trunk": "resnet18"}, 0.1),
        ({"model__trunk": "resnet18", "optim__rule": "adamw"}, 1e-3),
        ({"model__trunk": "vit_base_patch16_224"}, 0.003),
    ],
)
def test_rate_suits_trunk_and_rule(fields, rate):
    config, lines = completed(open_config(**fields))
    assert config.optim.lr == rate
    assert any(line.startswith("  optim.lr = ") for line in lines)


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({"method": "softmax", "pairs__kinds": "intra"}, ["pairs.kinds"]),
        ({"method": "softmax", "loss__label_smoothing": 0.1}, []),
        ({"model__gates": "alone", "model__hidden": 64}, ["model.hidden"]),
        ({"model__mutual": "sum", "model__hidden": 64}, ["model.hidden"]),
        ({"model__interaction": "self", "loss__rank_margin": 0.2}, ["loss.rank_margin"]),
        ({"pairs__choice": "random", "pairs__distance": "euclidean"}, []),  # the paper's preset
        ({"loss__rank_weight": 0.0, "loss__rank_margin": 0.2}, ["loss.rank_margin"]),
        ({"loss__rank_weight": 0.5, "loss__rank_margin": 0.2}, []),
        ({"batch__sampler": "shuffled", "batch__tail": "carry"}, ["batch.tail"]),
        ({"method": "softmax", "batch__sampler": "balanced", "batch__tail": "carry"}, []),
        ({"method": "softmax", "batch__tail": "carry"}, ["batch.tail"]),
        ({"batch__tail": "carry"}, []),
        ({"data__min_area": 0.5}, ["data.min_area"]),
        ({"data__min_area": 0.5, "data__augmentation": "random_resized"}, []),
        ({"optim__nesterov": True, "optim__momentum": 0.0}, ["optim.nesterov"]),
        (
            {"optim__decay_bn_bias": False, "optim__weight_decay": 0.0},
            ["optim.decay_bn_bias"],
        ),
        ({"optim__decay_bn_bias": False}, []),
        (
            {"model__trunk": "squeezenet1_1", "model__batch_norm": "per_device"},
            ["model.batch_norm"],
        ),
        ({"model__trunk": "resnet18", "model__batch_norm": "per_device"}, []),
        ({"model__trunk": "squeezenet1_1", "model__batch_norm": "fixed"}, ["model.batch_norm"]),
        (
            {"pairs__kinds": "intra", "pairs__choice": "confused", "loss__contrast_weight": 1.0},
            ["loss.contrast_weight", "pairs.choice"],
        ),
        ({"pairs__choice": "confused", "loss__contrast_weight": 1.0}, []),
        ({"loss__dropout_samples": 8}, ["loss.dropout_samples"]),
        ({"loss__dropout_samples": 8, "loss__ungated_weight": 1.0}, []),
        (
            {"method": "softmax", "loss__dropout_samples": 8, "model__dropout": 0.0},
            ["loss.dropout_samples"],
        ),
        ({"method": "softmax", "loss__dropout_samples": 8}, []),
    ],
)
def test_settings_without_effect(fields, idle):
    _, lines = completed(open_config(**fields))
    found = [line.split(" = ")[0] for line in lines if "has no effect: " in line]
    assert found == idle


@pytest.mark.parametrize(
    ("epochs", "frozen", "parts"),
    [
        (5.0, 8.0, ["frozen_epochs = 8 of optim.epochs = 5", "only the head learns"]),
        (8.0, 8.0, ["frozen_epochs = 8 of optim.epochs = 8", "only the head learns"]),
        (9.0, 8.0, ["the random trunk is frozen for 8 epochs"]),
    ],
)
def test_frozen_trunk_is_warned_about(epochs, frozen, parts):
    _, lines = completed(open_config(optim__epochs=epochs, optim__frozen_epochs=frozen))
    (line,) = [line for line in lines if "trunk is frozen" in line]
    assert line.startswith("WARNING: ")
    assert "optim.frozen_epochs=0" in line
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize(
    ("rule", "lr", "warned"),
    [("adamw", 0.011, True), ("adamw", 0.009, False), ("sgd", 1.0, False), ("adamw", None, False)],
)
def test_rate_of_sgd_with_adamw_is_warned_about(rule, lr, warned):
    _, lines = completed(open_config(optim__rule=rule, optim__lr=lr))
    found = [line for line in lines if line.startswith("WARNING: optim.lr = ")]
    assert len(found) == warned
    assert all(line.endswith("set optim.lr=0.001.") for line in found)


@pytest.mark.parametrize(
    ("platform", "images", "fields", "cache"),
    [
        ("cpu", 1200, {}, "disk"),
        ("cpu", 10**6, {}, "off"),
        ("gpu", 10**6, {}, "off"),
        ("gpu", 1200, {}, "device"),
        ("tpu", 1200, {}, "device"),
        ("gpu", 1200, {"data__augmentation": "random_resized"}, "disk"),
        ("gpu", 1200, {"data__resize": 1024, "data__crop": 448}, "disk"),  # no room for 3.5 GiB
    ],
)
def test_cache_of_resized_images(platform, images, fields, cache):
    config, _ = completed(open_config(**fields), platform=platform, images=images)
    assert config.data.cache == cache


def test_explicit_values_are_kept():
    config, lines = completed(open_config(batch__classes=7, model__trunk="resnet34"))
    assert config.batch.classes == 7
    assert config.model.trunk == "resnet34"
    assert not any(line.startswith(("  batch.classes", "  model.trunk")) for line in lines)


def test_choices_are_kept_on_resume():
    first, _ = completed(open_config(), platform="gpu", gib=80)
    again, _ = completed(open_config(), recorded=flatten(first))
    assert flatten(again) == flatten(first)


def test_trunk_is_read_from_the_weights(tmp_path):
    trunk = make_trunk("resnet18")
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, train=False), image)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    tensors = {k: np.ascontiguousarray(v) for k, v in to_torch_tensors(variables).items()}
    save_file(tensors, tmp_path / "w.safetensors")
    config, _ = completed(open_config(model__pretrained=str(tmp_path / "w.safetensors")))
    assert config.model.trunk == "resnet18"
    assert (config.optim.lr, config.optim.frozen_epochs) == (0.01, 8)
    config.optim.rule = "adamw"
    _, lines = completed(config)
    (line,) = [line for line in lines if line.startswith("WARNING")]
    assert line.startswith("WARNING: optim.lr = 0.01 is far above the 0.0001 that would be chosen")


def test_cached_features_need_no_small_batch_or_image():
    """A step of the head is small, so only the trunk's own size counts."""
    fields = {"model__trunk": "resnet50", "train__features": "cache", "optim__epochs": 30.0}
    config, lines = completed(open_config(**fields), platform="gpu", gib=0.7)
    assert (config.data.crop, config.batch.classes, config.batch.images) == (448, 30, 4)
    assert (config.model.remat, config.train.microbatches) == ("none", 1)
    assert (config.optim.frozen_epochs, config.optim.lr) == (30, 0.1)
    assert (config.checkpoint.every, config.eval.every) == (30, 30)  # 10 steps each
    assert any("its features are those of random weights" in line for line in lines)
    assert not any("GiB per device" in line for line in lines)


def test_cached_features_keep_the_trunk_frozen():
    fields = {"train__features": "cache", "optim__frozen_epochs": 2.0, "batch__classes": 10}
    config, lines = completed(open_config(**fields))
    assert any(line.startswith("optim.frozen_epochs = 2.0 has no effect") for line in lines)
    program = make_program(config, 40, 1200, make_mesh(jax.devices()[:1]))
    assert program.plan.frozen == program.plan.total
    shapes = jax.eval_shape(state_initializer(config, program), jax.random.key(0))
    momentum = jax.tree.leaves(shapes.opt_state)
    head = sum(
        leaf.size for name in ("fc", "map1", "map2") for leaf in shapes.params[name].values()
    )
    assert sum(leaf.size for leaf in momentum if leaf.ndim) == head  # the trunk has none
    assert any(
        line.startswith("train.views = 9 has no effect")
        for line in completed(open_config(train__views=9))[1]
    )
