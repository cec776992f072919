"""Memory that a trunk's parameters and activations need, from shapes alone."""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from apinet_jax.models import make_trunk


class Footprint(NamedTuple):
    """Bytes of the parameters, and of what one image adds in a training step.

    Attributes:
        params: The parameters, once.
        outputs: The outputs of all layers.
        largest: The largest of them.
        full: The most that is in memory at once with `remat=full`: the inputs of all blocks so far,
            and one block's layers.
    """

    params: int
    outputs: int
    largest: int
    full: int


@cache
def footprint(trunk: str, crop: int, dtype: str) -> Footprint:
    """Return the memory that a trunk needs.

    Args:
        trunk: A key of `TRUNKS`.
        crop: Height and width of an image.
        dtype: Compute type.

    Raises:
        InputError: No trunk has that name.
    """
    layers: list[tuple[str, int, int]] = []  # top-level name, bytes in, bytes out

    def record(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.module.path and context.method_name == "__call__":  # not the trunk itself
            name, (image, *_) = context.module.path[0], args
            layers.append((name, _num_bytes(image) // 2, _num_bytes(output) // 2))
        return output

    image = jax.ShapeDtypeStruct((2, crop, crop, 3), jnp.dtype(dtype))  # BatchNorm asks for two
    init = partial(make_trunk(trunk, jnp.dtype(dtype)).init, train=True)
    with nn.intercept_methods(record):
        variables = jax.eval_shape(init, jax.random.key(0), image)

    kept = full = 0
    for _, block in itertools.groupby(layers, key=lambda layer: layer[0]):
        *inner, (_, block_in, block_out) = block  # a block comes after its layers
        keeps = block_in if inner else block_out
        recomputed = sum(out for *_, out in inner)
        full = max(full, kept + recomputed + 2 * block_out + (keeps if inner else 0))
        kept += keeps
    outputs = [out for *_, out in layers]
    return Footprint(_num_bytes(variables["params"]), sum(outputs), max(outputs), full)


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
