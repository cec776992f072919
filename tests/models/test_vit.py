"""Vision transformers compute what timm's do, on images of any size that divides into patches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error, named_noise
from trunk_figures import assert_golden_maps, named_variables

from apinet_jax.data.batch import Batch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.method.steps import Preprocess, init_state, make_train_step
from apinet_jax.models import make_trunk
from apinet_jax.models.operations import conv, plain_conv
from apinet_jax.models.vit import ViT, attention, resample
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import make_mesh, replicated, to_global

# With the small ones of FAST, every kind of block and of position embedding.
NAMES = [
    "vit_base_patch16_224",
    "vit_base_patch14_dinov2",
    *(f"vit_{size}_patch14_reg4_dinov2" for size in ("base", "small")),
    "vit_small_patch16_dinov3",
]
FAST = ("vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3")  # with all that others have


def tiny(**options):
    return ViT(8, 3, width=16, depth=1, heads=2, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_golden_vit(name, goldens_dir):
    assert_golden_maps(name, np.load(goldens_dir / f"{name}.npz"))


@pytest.mark.parametrize("name", FAST)
def test_golden_small_vit(name, goldens_dir):
    assert_golden_maps(name, np.load(goldens_dir / f"{name}.npz"), most_cases=1)


@pytest.mark.parametrize("name", NAMES[:2])  # the others have the same grid
def test_golden_positions(name, goldens_dir):
    """Smaller and larger grids than the weights have, against torch's antialiased bicubic."""
    golden = np.load(goldens_dir / f"{name}.npz")
    side = make_trunk(name).grid
    grid = jnp.asarray(named_noise("grid", (side, side, 2)), jnp.float32)
    stretched = {key: golden[key] for key in golden if key.startswith("positions/")}
    assert len(stretched) == 2
    for expected in stretched.values():
        assert max_error(resample(grid, expected.shape[:2]), expected) < 1e-5


def test_native_positions_are_unchanged():
    grid = jnp.asarray(named_noise("grid", (5, 5, 3)), jnp.float32)
    np.testing.assert_array_equal(resample(grid, (5, 5)), grid)


def test_patch_convolution_equals_plain_convolution():
    x = jnp.asarray(named_noise("x", (2, 6, 9, 2)), jnp.float32)
    kernel = jnp.asarray(named_noise("kernel", (3, 3, 2, 4)), jnp.float32)
    cotangent = jnp.asarray(named_noise("cotangent", (2, 2, 3, 4)), jnp.float32)
    expected, ours = (
        (y, *pull_back(cotangent))
        for y, pull_back in (
            jax.vjp(partial(convolve, stride=3, padding=0), x, kernel)
            for convolve in (plain_conv, conv)
        )
    )
    for a, b in zip(ours, expected, strict=True):
        assert max_error(a, b) < 1e-6


def test_attention_by_hand():
    """Equal keys share the attention; a key far along the query's direction takes all of it."""
    query = jnp.array([0.0, 1.0]).reshape(1, 2, 1, 1)
    key = jnp.array([0.0, 100.0]).reshape(1, 2, 1, 1)
    value = jnp.array([2.0, 6.0]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(attention(query, key, value).ravel(), [4.0, 6.0], rtol=1e-6)


def test_attention_softmax_is_float32():
    """With logits rounded to bfloat16 the error would be 0.03."""
    query, key, value = (
        jnp.asarray(scale * named_noise(name, (1, 512, 1, 16)), jnp.bfloat16)
        for name, scale in (("query", 8), ("key", 1), ("value", 1))
    )
    y = attention(query, key, value)
    assert y.dtype == jnp.bfloat16
    exact = attention(*(x.astype(jnp.float32) for x in (query, key, value)))
    assert max_error(y.astype(jnp.float32), exact) < 0.01


@pytest.mark.parametrize(("size", "crop"), [((20, 24), 16), ((24, 31), 24), ((4, 4), 8)])
def test_indivisible_images_are_refused(size, crop):
    images = jnp.zeros((1, *size, 3))
    with pytest.raises(InputError, match=rf"patches of 8; .*data\.crop={crop}\b"):
        jax.eval_shape(lambda x: tiny().init(jax.random.key(0), x, train=False), images)


def test_pools():
    images = jax.random.normal(jax.random.key(0), (2, 24, 24, 3))
    variables = named_variables(tiny(), images)

    @jax.jit
    def found():
        feature_map, token = tiny().apply(variables, images, method="tokens")
        pools = {
            pool: tiny(pool=pool).apply(variables, images, True, method="features")
            for pool in ("map", "token", "both")
        }
        return feature_map, token, pools

    feature_map, token, pools = found()
    assert token.shape == (2, 16)
    np.testing.assert_allclose(pools["map"], feature_map.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pools["token"], token, rtol=1e-5, atol=1e-6)
    expected = np.concatenate([pools["map"], pools["token"]], axis=1)
    np.testing.assert_allclose(pools["both"], expected, rtol=1e-5, atol=1e-6)


def test_training_and_evaluation_are_equal():
    images = jax.random.normal(jax.random.key(0), (2, 24, 24, 3))
    trunk = tiny(layer_scale=("ls1.gamma", "ls2.gamma"))
    variables = named_variables(trunk, images)
    assert variables.keys() == {"params"}
    evaluated, trained = (trunk.apply(variables, images, train) for train in (False, True))
    np.testing.assert_array_equal(trained, evaluated)


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    network = APINet(tiny(registers=1), 16, 4, hidden=8)
    options = {"momentum": 0.9, "weight_decay": 0.0, "decay_bn_bias": True, "frozen_steps": 0}
    optimizer = make_optimizer(cosine_schedule(0.05, 100), **options)
    draw = partial(init_state, network, optimizer, crop=32)
    first = jax.device_get(jax.jit(draw)(jax.random.key(0)))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    labels, ids = np.repeat(np.arange(4, dtype=np.int32), 4), np.arange(16, dtype=np.int32)
    batch = Batch(pixels, labels, ids, np.ones(16, bool))

    def after_a_step(devices):
        mesh = make_mesh(jax.devices()[:devices])
        step = make_train_step(
            mesh,
            model=network,
            optimizer=optimizer,
            objective=Objective(),
            preprocess=Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            stage="full",
        )
        state = jax.device_put(first, replicated(mesh))
        state, metrics = step(state, to_global(batch, mesh), jax.random.key(0))
        return jax.device_get((state.params, metrics))

    (one, metrics_1), (eight, metrics_8) = after_a_step(1), after_a_step(8)
    assert metrics_8.pairs == metrics_1.pairs == 32
    assert max_error(metrics_8.loss, metrics_1.loss) < 1e-5
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7), eight, one)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), one, first.params)
    assert jax.tree.all(moved), moved


def test_tokens_keep_torch_layout():
    images = jnp.zeros((1, 24, 24, 3))
    variables = named_variables(tiny(registers=2, layer_scale=("ls1.gamma", "ls2.gamma")), images)
    tensors = to_torch_tensors(variables)
    params = variables["params"]
    assert tensors["pos_embed"].shape == (1, 3 + 9, 16)
    assert tensors["reg_token"].shape == (1, 2, 16)
    np.testing.assert_array_equal(tensors["pos_embed"], params["pos_embed"])
    np.testing.assert_array_equal(tensors["blocks.0.ls1.gamma"], params["blocks.0"]["ls1.gamma"])
    kernel = params["blocks.0"]["attn.qkv"]["kernel"]
    assert tensors["blocks.0.attn.qkv.weight"].shape == (48, 16)
    np.testing.assert_array_equal(tensors["blocks.0.attn.qkv.weight"], kernel.T)
    restored = load_torch_tensors(tensors, variables, ("head.",))
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_positions_of_another_grid_are_refused():
    images = jnp.zeros((1, 24, 24, 3))
    variables = named_variables(tiny(), images)
    tensors = {**to_torch_tensors(variables), "pos_embed": np.zeros((1, 17, 16), np.float32)}
    with pytest.raises(InputError, match=r"pos_embed \(1, 17, 16\) instead of \(1, 10, 16\)"):
        load_torch_tensors(tensors, variables, ("head.",))
