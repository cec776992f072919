"""Swin transformers compute what timm's do, on images of any size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error, named_noise
from trunk_figures import assert_golden_maps, named_variables

from apinet_jax.method.interaction import APINet
from apinet_jax.models.swin import (
    Swin,
    cells_apart,
    offset_weights,
    partition,
    position_bias,
    unite,
)
from apinet_jax.models.weights.torch_names import load_torch_tensors, to_torch_tensors
from apinet_jax.system.errors import InputError


def tiny(**options):
    return Swin((2, 2), (1, 2), width=8, window=3, **options)


@pytest.mark.parametrize(
    "name",
    ["test_swin", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)],
)
def test_golden_swin(name, goldens_dir):
    """Padded windows, shifted in both directions at first, and then windows that shrink.

    The small trunk sees an odd number of columns, and still shifts along them in the last stage.
    """
    assert_golden_maps(name, np.load(goldens_dir / f"{name}.npz"))


def test_windows_by_hand():
    x = jnp.arange(12.0).reshape(1, 2, 6, 1)
    windows = partition(x, (2, 3))
    assert windows[..., 0].tolist() == [[[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]]
    np.testing.assert_array_equal(unite(windows, (2, 3), (2, 6)), x)


def test_shifted_windows_do_not_join_the_ends():
    """Six columns, windows of three, shifted by one: the last window has columns 4, 5 and 0."""
    apart = cells_apart((1, 6), (1, 3), (0, 1))
    assert not apart[0].any()
    np.testing.assert_array_equal(apart[1], np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool))


def test_attention_reaches_the_shifted_window_only():
    """The gradient of a cell in a second block, over two 3-cell windows shifted by one."""
    trunk = Swin((2,), (1,), width=8, window=3)
    images = jax.random.normal(jax.random.key(0), (1, 12, 24, 3))  # 3 x 6 cells
    variables = named_variables(trunk, images)

    @jax.jit
    @jax.grad
    def gradient(images):
        return trunk.apply(variables, images, train=False)[0, 0, 0].sum()

    seen = np.abs(gradient(images)).sum((0, 1, 3)).reshape(6, 4).sum(1)
    assert (seen > 1e-9).tolist() == [True, True, True, False, False, False]


def test_biases_of_native_windows_are_the_table():
    table = jnp.asarray(named_noise("table", (25, 2)), jnp.float32)
    bias = position_bias(table, (3, 3), 3)  # [heads T T]
    assert bias.shape == (2, 9, 9)
    query, key = 1 * 3 + 2, 2 * 3 + 0  # one row up, two columns to the right
    np.testing.assert_array_equal(bias[:, query, key], table[(-1 + 2) * 5 + (2 + 2)])


def test_biases_of_smaller_windows():
    """Linear between offsets at 0, 1 and 2.01: an offset of 1 is unchanged, 2 is almost 2."""
    weights = offset_weights(3, 3, resampled=True)  # [query key offset]
    np.testing.assert_allclose(weights[1, 0], [0, 0, 0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(weights[0, 2], [1 / 1.01, 0.01 / 1.01, 0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("size", [(3, 40), (40, 2)])
def test_too_small_images_are_refused(size):
    model = APINet(tiny(), 16, 3, interaction="none")
    with pytest.raises(InputError, match="too small for this trunk"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_smallest_image():
    trunk, images = tiny(), jnp.ones((2, 4, 4, 3))
    apply = jax.jit(partial(trunk.apply, train=False))
    feature_map = apply(named_variables(trunk, images), images)
    assert feature_map.shape == (2, 1, 1, 16)
    assert np.isfinite(feature_map).all()


def test_tensors_have_timm_names():
    variables = named_variables(tiny(), jnp.zeros((1, 16, 16, 3)))
    tensors = to_torch_tensors(variables)
    assert tensors["layers.1.downsample.reduction.weight"].shape == (16, 32)
    assert tensors["layers.1.blocks.0.attn.relative_position_bias_table"].shape == (25, 2)
    assert tensors["layers.0.blocks.1.attn.qkv.weight"].shape == (24, 8)
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((9, 9), np.int64),
        "layers.0.blocks.1.attn_mask": np.zeros((4, 9, 9), np.float32),
        "head.fc.weight": np.zeros((5, 16), np.float32),
    }
    restored = load_torch_tensors(tensors | buffers, variables, ("head.",))
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_remat_keeps_the_gradient():
    images = jax.random.normal(jax.random.key(0), (1, 20, 28, 3))
    trunks = [Swin((2,), (1,), width=4, window=3, remat=remat) for remat in ("full", "none")]
    variables = named_variables(trunks[0], images)

    def size(images, trunk):
        return jnp.square(trunk.apply(variables, images, train=True)).sum()

    found, expected = (jax.jit(jax.grad(partial(size, trunk=t)))(images) for t in trunks)
    assert max_error(found, expected) < 1e-5
