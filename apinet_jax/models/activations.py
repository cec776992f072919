"""Activations of convolutional trunks, each computed once.

Their gradients read the result and not the input: a later layer stores the result anyway, and
whatever is normalised to give the input need not be normalised again.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from apinet_jax.models.operations import is_portable, stored


def relu(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Return the positive part of `x`, with a gradient of zero at 0, as torch."""
    return jnp.maximum(x, 0) if is_portable() else _clip(x, None)


def relu6(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Return `x` between 0 and 6, with torch's gradient: zero at both bounds."""
    return jnp.minimum(jnp.maximum(x, 0), 6) if is_portable() else _clip(x, 6)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _clip(x: Float[Array, "*S"], high: int | None) -> Float[Array, "*S"]:
    """Return `x` between 0 and `high`, if that is given."""
    return stored(jnp.clip(x, 0, high))


def _keep_result(x: Array, high: int | None) -> tuple[Array, Array]:
    y = _clip(x, high)
    return y, y


def _clip_backward(high: int | None, y: Array, gradient: Array) -> tuple[Array]:
    inside = y > 0 if high is None else (y > 0) & (y < high)
    return (stored(jnp.where(inside, gradient, 0)),)


_clip.defvjp(_keep_result, _clip_backward)
