"""Parity of the trunks with torchvision, in float32 and bfloat16."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from numeric import max_error, named_tensor
from trunk_figures import (
    assert_deep_golden,
    assert_golden_state,
    count,
    cross_entropy,
    golden_passes,
    named_variables,
)

from apinet_jax.models import TRUNKS, check_trunk, make_trunk, variable_shapes
from apinet_jax.models.convnext import ConvNeXt
from apinet_jax.models.densenet import DenseNet
from apinet_jax.models.layers import BatchNorm, Conv, he_normal_fan_out, he_uniform, normalise
from apinet_jax.models.resnet import Bottleneck, ResNet
from apinet_jax.models.swin import Swin
from apinet_jax.models.vit import ViT
from apinet_jax.models.weights.torch_names import to_torch_tensors
from apinet_jax.system.errors import InputError

known_shapes = cache(variable_shapes)


@pytest.mark.parametrize(
    ("name", "last_norm"),
    [
        ("resnet18", ("layer4.1", "bn2")),
        pytest.param("resnet50", ("layer4.2", "bn3"), marks=pytest.mark.slow),
    ],
)
def test_golden_resnet(name, last_norm, goldens_dir):
    golden = np.load(goldens_dir / f"{name}.npz")
    with jax.numpy_dtype_promotion("strict"):
        (features, logits, _), (train_features, train_logits, state, gradient), params = (
            golden_passes(name, golden)
        )
    assert max_error(features, golden["eval_features"]) < 1e-5
    assert max_error(logits, golden["eval_logits"]) < 1e-5
    assert max_error(train_features, golden["train_features"]) < 1e-5
    assert max_error(train_logits, golden["train_logits"]) < 1e-5
    assert max_error(gradient, golden["grad_x"]) < 1e-3
    assert_golden_state(state, last_norm, golden)
    assert params == golden["params"]


@pytest.mark.slow
def test_golden_resnet101(goldens_dir):
    golden = np.load(goldens_dir / "resnet101.npz")
    assert_deep_golden("resnet101", ("layer4.2", "bn3"), golden)


def test_golden_squeezenet(goldens_dir):
    golden = np.load(goldens_dir / "squeezenet1_1.npz")
    images = jnp.asarray(golden["x"])
    trunk = make_trunk("squeezenet1_1")
    variables = named_variables(trunk, images)
    kernel = named_tensor("classifier.1.weight", (1000, 512, 1, 1))[..., 0, 0].T
    bias = named_tensor("classifier.1.bias", (1000,))

    def classify(images):
        feature_map = trunk.apply(variables, images, train=False)
        features = feature_map.mean((1, 2))
        logits = jax.nn.relu(feature_map @ kernel + bias[None, None, None]).mean((1, 2))
        return cross_entropy(features), (feature_map, features, logits)

    with jax.numpy_dtype_promotion("strict"):
        gradient, (feature_map, features, logits) = jax.jit(jax.grad(classify, has_aux=True))(
            images
        )
    batch, *cells, width = feature_map.shape
    assert sorted((batch, *cells, width)) == sorted(golden["eval_feature_map_shape"].tolist())
    assert max_error(features, golden["eval_features"]) < 1e-5
    assert max_error(logits, golden["eval_logits"]) < 1e-5
    assert max_error(gradient, golden["grad_x"]) < 1e-5
    assert count(variables["params"]) + kernel.size + bias.size == golden["params"]


# The deepest ones take long to trace, and have the blocks of the others.
DEEP = (
    *("resnet101", "resnet152", "densenet161"),
    *("vit_large_patch14_dinov2", "vit_large_patch14_reg4_dinov2"),
    *("convnext_small", "convnext_base", "convnext_large"),
    *(name for name in TRUNKS if name.startswith("swin") and "tiny" not in name),
    *(f"tf_efficientnet_lite{size}" for size in (1, 2, 3, 4)),
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in TRUNKS],
)
def test_names_widths_and_sizes(name, goldens_dir):
    spec = TRUNKS[name]
    height, width = (70, 65) if spec.patch == 1 else (4 * spec.patch, 3 * spec.patch)
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    trunk = make_trunk(name, batch_norm_groups=2)
    feature_map, variables = jax.eval_shape(
        partial(trunk.init_with_output, train=True), jax.random.key(0), images
    )
    cells = {
        "squeezenet1_1": (4, 4),
        "densenet121": (2, 2),
        "densenet161": (2, 2),
        "test_tiny": (18, 17),
        **dict.fromkeys((name for name in TRUNKS if "convnext" in name), (2, 2)),
        **dict.fromkeys((name for name in TRUNKS if "swin" in name), (3, 2)),
    }
    default = (3, 3) if spec.patch == 1 else (4, 3)
    assert feature_map.shape == (2, *cells.get(name, default), spec.width)
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables)
    assert jax.tree.map(lambda leaf: leaf.shape, known_shapes(name)) == shapes
    golden = goldens_dir / f"{name}.npz"
    if golden.exists():
        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
        keys = {
            key
            for key in np.load(golden)["keys"].tolist()
            if not key.startswith(spec.classifier_prefixes)
            and not key.endswith("num_batches_tracked")
        }
        assert set(to_torch_tensors(blank)) == keys


@pytest.mark.parametrize("deep", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_two_trunks_have_the_same_tensors(deep):
    """The trunk is recognised by its weights."""
    names = [name for name in TRUNKS if deep or name not in DEEP]
    shapes = [flatten_dict(known_shapes(name)) for name in names]
    tensors = {frozenset((path, leaf.shape) for path, leaf in one.items()) for one in shapes}
    assert len(tensors) == len(names)


def test_unknown_trunk():
    with pytest.raises(InputError, match=r"'resnet51'.*resnet50.*squeezenet1_1"):
        make_trunk("resnet51")


def test_test_trunks_are_not_offered():
    with pytest.raises(InputError) as caught:
        make_trunk("resnet51")
    assert "test_" not in str(caught.value)


@pytest.mark.parametrize("pool", ["token", "both"])
def test_only_vits_have_a_class_token(pool):
    message = rf"model\.pool = {pool} needs a class token, .* resnet18 .*=map, .*vit_small_patch14"
    with pytest.raises(InputError, match=message):
        make_trunk("resnet18", pool=pool)
    with pytest.raises(InputError, match=message):
        check_trunk("resnet18", None, pool)


@pytest.mark.parametrize(
    ("trunk", "size"),
    [
        (make_trunk("resnet10_w16", jnp.bfloat16, batch_norm_groups=2), 33),
        (make_trunk("test_tiny", jnp.bfloat16, batch_norm_groups=2, remat="full"), 33),
        (ResNet(Bottleneck, (1, 1), 8, dtype=jnp.bfloat16), 32),
        pytest.param(make_trunk("squeezenet1_1", jnp.bfloat16), 32, marks=pytest.mark.slow),
        pytest.param(DenseNet((2, 2), 8, 16, dtype=jnp.bfloat16), 33, marks=pytest.mark.slow),
        (
            ViT(
                8,
                2,
                registers=2,
                layer_scale=("ls1.gamma", "ls2.gamma"),
                width=32,
                depth=2,
                heads=2,
                dtype=jnp.bfloat16,
            ),
            24,
        ),
        (ConvNeXt((1, 1), (8, 16), dtype=jnp.bfloat16), 24),
        (Swin((2, 1), (1, 2), width=8, window=3, dtype=jnp.bfloat16), 20),
    ],
    ids=["basic", "tiny", "bottleneck", "squeezenet", "densenet", "vit", "convnext", "swin"],
)
def test_bfloat16_trains_float32_parameters(trunk, size):
    images = jax.random.normal(jax.random.key(0), (4, size, size, 3))
    variables = named_variables(trunk, images)
    params = variables.pop("params")
    weights = jax.random.normal(jax.random.key(2), (1, 1, 1, 512))

    def loss(params):
        features, state = trunk.apply(
            {"params": params, **variables}, images, train=True, mutable=["batch_stats"]
        )
        pooled = trunk.apply({"params": params}, features, method="before_pooling")
        score = pooled.astype(jnp.float32) * weights[..., : features.shape[-1]]
        return score.sum(), (features, state)

    with jax.numpy_dtype_promotion("strict"):
        gradient, (features, state) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert features.dtype == jnp.bfloat16
    assert jnp.isfinite(features).all()
    for leaf in jax.tree.leaves((params, state, gradient)):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_initial_variance_is_that_of_torch():
    x = jnp.zeros((1, 3, 3, 32))
    for init, variance in ((he_normal_fan_out, 2 / (9 * 64)), (he_uniform, 2 / (9 * 32))):
        params = Conv(64, 3, use_bias=True, kernel_init=init).init(jax.random.key(0), x)["params"]
        np.testing.assert_allclose(params["kernel"].var(), variance, rtol=0.05)
        assert not params["bias"].any()


def batch_norm(values, groups=1, dtype=jnp.float32):
    """Return the output and the new statistics of one training pass over `values` [B]."""
    x = jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)
    norm = BatchNorm(groups, dtype=dtype)
    variables = norm.init(jax.random.key(0), x, train=False)
    y, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, state["batch_stats"]


def test_batch_norm_by_hand():
    # mean 3, biased variance 5, unbiased 20 / 3
    y, running = batch_norm([0.0, 2.0, 4.0, 6.0])
    np.testing.assert_allclose(y.ravel(), np.array([-3, -1, 1, 3]) / np.sqrt(5 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(running["mean"], [0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(running["var"], [0.9 + 0.1 * 20 / 3], rtol=1e-6)


def test_batch_norm_groups_by_hand():
    # means 1 and 13, biased variances 1 and 9, unbiased 2 and 18: the statistics move by 7 and 10
    y, running = batch_norm([0.0, 2.0, 10.0, 16.0], groups=2)
    np.testing.assert_allclose(y.ravel(), [-1, 1, -1, 1], rtol=1e-5)
    np.testing.assert_allclose(running["mean"], [0.1 * 7], rtol=1e-6)
    np.testing.assert_allclose(running["var"], [0.9 + 0.1 * 10], rtol=1e-6)


def test_batch_norm_statistics_are_float32_under_bfloat16():
    values = 100 + jnp.arange(64) / 64  # in bfloat16 arithmetic all of these are one number or two
    y, running = batch_norm(values, dtype=jnp.bfloat16)
    expected, _ = batch_norm(values)
    assert y.dtype == jnp.bfloat16
    assert max_error(y, expected) < 1e-2
    assert running["mean"].dtype == running["var"].dtype == jnp.float32


def test_single_pass_batch_norm_is_accurate():
    """Means of up to 256 standard deviations, beyond which bfloat16 has no spread."""
    noise = np.random.default_rng(0).normal(size=(4096, 1, 1, 1))
    means = jnp.array([0.0, 1, 16, 256, 3]).reshape(1, 1, 1, -1)
    spreads = jnp.array([1.0, 1, 1, 1, 0]).reshape(1, 1, 1, -1)
    x = (means + spreads * jnp.asarray(noise, jnp.float32)).astype(jnp.bfloat16)
    norm = BatchNorm(momentum=1.0)
    variables = norm.init(jax.random.key(0), x, train=False)
    y, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(state["batch_stats"]["var"], exact, rtol=2e-2, atol=1e-6)
    assert not y[..., 4].any()  # a constant channel, whose variance cancels


def test_batch_norm_gradient():
    x = jax.random.normal(jax.random.key(0), (6, 3, 3, 2)) + 3
    weight = jax.random.normal(jax.random.key(1), x.shape)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)

    def ours(x):
        y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sum(weight * y)

    def definition(x):
        mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        return jnp.sum(weight * (x - mean) / jnp.sqrt(var + 1e-5))

    assert max_error(jax.grad(ours)(x), jax.grad(definition)(x)) < 1e-5


def test_batch_norm_evaluation_uses_running_statistics():
    x = jnp.array([1.0, 5.0]).reshape(2, 1, 1, 1)
    norm = BatchNorm(groups=2)
    running = {"mean": jnp.array([3.0]), "var": jnp.array([4.0])}
    params = {"scale": jnp.array([2.0]), "bias": jnp.array([1.0])}
    y = norm.apply({"params": params, "batch_stats": running}, x, train=False)
    np.testing.assert_allclose(y.ravel(), [-1, 3], rtol=1e-5)


@pytest.mark.parametrize(("batch", "groups", "message"), [(3, 2, "multiple"), (2, 2, "one value")])
def test_batch_norm_refuses_unsuitable_batches(batch, groups, message):
    with pytest.raises(InputError, match=message):
        batch_norm(np.arange(batch), groups=groups)


def test_normalise_by_hand():
    images = jnp.array([[0, 51, 255]], jnp.uint8).reshape(1, 1, 1, 3)
    with jax.numpy_dtype_promotion("strict"):
        y = normalise(images, mean=(0.5, 0.2, 0.6), std=(0.25, 0.5, 0.2), dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32).ravel(), [-2, 0, 2], atol=1e-2)
