"""A trunk by its name."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from apinet_jax.models.layers import Remat, Trunk
from apinet_jax.models.registry import IMAGENET_MEAN as IMAGENET_MEAN
from apinet_jax.models.registry import IMAGENET_STD as IMAGENET_STD
from apinet_jax.models.registry import LISTED_TRUNKS, TRUNKS, TrunkSpec
from apinet_jax.models.registry import SCRATCH_TRUNKS as SCRATCH_TRUNKS
from apinet_jax.models.vit import Pool, check_sides
from apinet_jax.system.errors import InputError


def trunk_spec(name: str) -> TrunkSpec:
    """Return what is known of a trunk.

    Raises:
        InputError: No trunk has that name.
    """
    if name not in TRUNKS:
        listed = ", ".join(LISTED_TRUNKS)
        raise InputError(f"there is no trunk named {name!r}; choose one of {listed}")
    return TRUNKS[name]


def check_trunk(
    name: str | None, crop: int | None, pool: Pool = "map", drop_path: float = 0.0
) -> None:
    """Refuse an unknown trunk, a crop that its patches do not fill, and options that it lacks.

    Args:
        name: Name of the trunk; `None` if it is not known yet.
        crop: Side of the images in pixels; `None` if it is not known yet.
        pool: How features are pooled.
        drop_path: Rate of the drop path.

    Raises:
        InputError: With the known trunks, a side that works, or the trunks with the option.
    """
    if name is None:
        return
    spec = trunk_spec(name)
    if crop is not None:
        check_sides(spec.patch, crop, crop)
    if pool != "map" and not spec.class_token:
        have = ", ".join(known for known in LISTED_TRUNKS if TRUNKS[known].class_token)
        raise InputError(
            f"model.pool = {pool} needs a class token, which {name} does not have; set"
            f" model.pool=map, or choose one of {have}"
        )
    if drop_path and not spec.drop_path:
        have = ", ".join(known for known in LISTED_TRUNKS if TRUNKS[known].drop_path)
        raise InputError(
            f"model.drop_path = {drop_path:g}, but {name} has no drop path; set model.drop_path=0,"
            f" or choose one of {have}"
        )


def make_trunk(
    name: str,
    dtype: DTypeLike = jnp.float32,
    batch_norm_groups: int = 1,
    remat: Remat = "none",
    pool: Pool = "map",
    drop_path: float = 0.0,
) -> Trunk:
    """Build a trunk: `module(images [B H W 3], train) -> feature map [B h w D]`.

    Its method `features` takes the same arguments and returns the pooled features.

    Args:
        name: A key of `TRUNKS`, `resnet50` for instance.
        dtype: Compute dtype; parameters and BatchNorm statistics stay float32.
        batch_norm_groups: Equal parts of the batch with separate BatchNorm statistics.
        remat: Rematerialisation of each block: `none` stores every activation for the backward
            pass, `dots` only the results of convolutions and matrix products, `full` only the
            input of the block.
        pool: What is pooled: `map`, the mean of the feature map; `token`, the class token; `both`,
            the mean of the feature map, then the class token.
        drop_path: Probability that the last block drops its residual of an image in training; it
            rises linearly from 0 in the first block.

    Returns:
        The linen module, without parameters.

    Raises:
        InputError: No trunk has that name, or it has no class token to pool, or no drop path.
    """
    check_trunk(name, None, pool, drop_path)
    options = {} if pool == "map" else {"pool": pool}
    options |= {"dtype": dtype, "batch_norm_groups": batch_norm_groups, "remat": remat}
    return trunk_spec(name).build(drop_path=drop_path, **options)


def variable_shapes(name: str, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """Return the shapes and dtypes of a trunk's variables, without initialising them.

    Raises:
        InputError: No trunk has that name.
    """
    trunk, side = make_trunk(name, dtype), 32 * trunk_spec(name).patch
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.dtype(dtype))
    return jax.eval_shape(partial(trunk.init, train=False), jax.random.key(0), image)
