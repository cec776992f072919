"""Dropout with the draws of `flax.linen.Dropout`, but with masks that CPUs compute fast.

JAX draws by Threefry-2x32 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"). For
CPUs it compiles the rounds as a loop, which writes all numbers to memory again and again. Here they
are one elementwise expression, with the same bits.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


class Dropout(nn.Module):
    """Sets features to zero at random in training, and scales the others up.

    Attributes:
        rate: Probability of zero, from 0 to below 1.
    """

    rate: float

    def __call__(self, x: Float[Array, "*P D"], train: bool) -> Float[Array, "*P D"]:
        """Return `x` in evaluation; in training it needs the `dropout` random stream."""
        if not train or not self.rate:
            return x
        kept = keep_mask(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)


def keep_mask(
    key: Key[Array, ""], probability: float, shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """Return `jax.random.bernoulli(key, probability, shape)`, to the bit.

    Args:
        key: The key.
        probability: Probability of true.
        shape: Shape of the mask.
    """
    usual = (
        jax.random.key_impl(key) == "threefry2x32"
        and jax.config.jax_threefry_partitionable
        and not jax.config.jax_enable_x64
        and math.prod(shape) < 2**32
    )
    if not usual:
        return jax.random.bernoulli(key, probability, shape)
    # The upper bits are the mantissa of a number from 1 to 2.
    mantissa = lax.shift_right_logical(_threefry_bits(key, shape), np.uint32(9))
    uniform = lax.bitcast_convert_type(mantissa | np.uint32(0x3F800000), jnp.float32) - 1
    return uniform < jnp.float32(probability)


def _threefry_bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Return `jax.random.bits(key, shape)`: the hash of the place of each number."""
    word_0, word_1 = jax.random.key_data(key)
    words = (word_0, word_1, word_0 ^ word_1 ^ _PARITY)
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):  # not a reshaped range, which could not be sharded
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        place += stride * lax.broadcasted_iota(jnp.uint32, shape, axis)
    x_0, x_1 = jnp.full(shape, words[0]), place + words[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x_0 += x_1
            left = lax.shift_left(x_1, np.uint32(rotation))
            x_1 = x_0 ^ (left | lax.shift_right_logical(x_1, np.uint32(32 - rotation)))
        x_0 += words[(group + 1) % 3]
        x_1 += words[(group + 2) % 3] + np.uint32(group + 1)
    return x_0 ^ x_1
