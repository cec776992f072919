"""Pretrained weights without a run: features of photos."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, UInt8

from apinet_jax.batches import in_batches
from apinet_jax.data.photos import Photo, read_pixels
from apinet_jax.method.interaction import APINet
from apinet_jax.method.optim import TRUNK
from apinet_jax.models import check_trunk, make_trunk, trunk_spec, variable_shapes
from apinet_jax.models.layers import normalise
from apinet_jax.models.vit import Pool, check_sides
from apinet_jax.models.weights.hub import find_pretrained
from apinet_jax.models.weights.recognise import check_weights, read_weights
from apinet_jax.models.weights.torch_names import load_torch_tensors
from apinet_jax.setup.sizing import resize_for
from apinet_jax.system.compiler_options import compiler_options
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath

_BATCH = 32


def load_trunk(
    weights: AnyPath | str,
    trunk: str | None = None,
    *,
    pool: Pool = "map",
    device: jax.Device | None = None,
) -> "PretrainedTrunk":
    """Load pretrained weights, to compute features of photos without a run.

    Args:
        weights: A safetensors file, a folder with one, or `timm:NAME` on the Hugging Face hub, as
            for `model.pretrained`. The pixel statistics and the size of the images are those of
            the configuration next to the file, else those of the trunk.
        trunk: Name of the trunk; by default it is recognised by its tensors.
        pool: What `features` returns, as `model.pool`: the mean of the feature map (`map`), the
            class token of a ViT (`token`), or `both`.
        device: Where it computes; JAX's default device if not given.

    Returns:
        The trunk; nothing is compiled before the first photo.

    Raises:
        InputError: If the weights do not exist, cannot be read or belong to another trunk, or there
            is no such trunk, or it has no class token to pool.

    Examples:
        >>> import apinet_jax
        >>> trunk = apinet_jax.load_trunk("timm:resnet50.tv_in1k")  # doctest: +SKIP
        >>> trunk.features(["photo.jpg"]).shape  # doctest: +SKIP
        (1, 2048)
    """
    return PretrainedTrunk(weights, trunk, pool, device)


class PretrainedTrunk:
    """A trunk with pretrained weights and its preprocessing; it computes in float32.

    A uint8 array [B H W 3] is used at its own size. Other photos are paths (also `gs://`), encoded
    bytes, PIL images or uint8 arrays [H W 3], in a sequence. They are resized to `resize` x
    `resize` pixels, of which the central `crop` x `crop` are used, as test images are. `crop` is
    the size in the configuration next to the weights; without one it is the trunk's on a CPU
    (224, 128 for `resnet10_w16`), on every device.

    Attributes:
        name: Name of the trunk.
        source: Permanent name of the weights: a path, or `timm:NAME@COMMIT`.
        width: Channels of its pooled features.
        resize: Side of resized photos, in pixels.
        crop: Side of their central part that is used.
        mean: Mean of each channel of the images that the weights were trained on, from 0 to 1.
        std: Their standard deviation.
        device: Where it computes.
    """

    def __init__(
        self, weights: AnyPath | str, trunk: str | None, pool: Pool, device: jax.Device | None
    ):
        """Read the weights, as `load_trunk`; nothing is compiled before the first photo."""
        check_trunk(trunk, None, pool)
        found = find_pretrained(str(weights))
        self.name = check_weights(found.path, trunk)
        self.source = found.source
        self.device = device or jax.devices()[0]
        spec = trunk_spec(self.name)
        self.width = spec.feature_width(pool)
        self.mean, self.std = found.mean or spec.mean, found.std or spec.std
        self.crop = max((found.size or spec.cpu_crop) // spec.patch, 1) * spec.patch
        self.resize = resize_for(self.crop)
        self._patch = spec.patch
        tensors = read_weights(found.path, self.name)
        inside = load_torch_tensors(tensors, variable_shapes(self.name), spec.classifier_prefixes)
        variables = {kind: {TRUNK: leaves} for kind, leaves in inside.items()}
        self._variables = jax.device_put(variables, self.device)
        module = make_trunk(self.name, pool=pool)
        model = APINet(module, self.width, num_classes=1, interaction="none")

        def apply(variables: dict, images: UInt8[jax.Array, "B H W 3"], method: str) -> jax.Array:
            images = normalise(images, self.mean, self.std)
            return model.apply(variables, images, train=False, method=method)

        options = compiler_options(self.device.platform)
        self._apply = jax.jit(apply, static_argnames="method", compiler_options=options)

    def features(self, photos: Sequence[Photo] | np.ndarray) -> Float[np.ndarray, "N D"]:
        """Return the pooled feature of each photo: the mean over its feature map, or `pool`.

        Raises:
            InputError: If a photo cannot be read, or the images do not suit the trunk.
            TypeError: If it is a single photo instead of a sequence.
        """
        return self._in_batches("features", photos)

    def feature_map(self, photos: Sequence[Photo] | np.ndarray) -> Float[np.ndarray, "N h w D"]:
        """Return the feature map of each photo, before pooling.

        Raises:
            InputError: If a photo cannot be read, or the images do not suit the trunk.
            TypeError: If it is a single photo instead of a sequence.
        """
        return self._in_batches("feature_map", photos)

    def pixels(self, photos: Sequence[Photo] | np.ndarray) -> UInt8[np.ndarray, "N H W 3"]:
        """Return the pixels that the trunk sees of each photo.

        Raises:
            InputError: If a photo cannot be read, or the images do not suit the trunk.
            TypeError: If it is a single photo instead of a sequence.
        """
        if not (isinstance(photos, np.ndarray) and photos.ndim == 4):
            return read_pixels(photos, None, self.resize, self.crop)
        if photos.dtype != np.uint8 or photos.shape[-1] != 3:
            raise InputError(
                f"An array of {photos.dtype} {photos.shape} is not one of uint8 [B H W 3]."
            )
        check_sides(self._patch, *photos.shape[1:3])
        return photos

    def _in_batches(self, method: str, photos: Sequence[Photo] | np.ndarray) -> np.ndarray:
        return in_batches(
            partial(self._apply, self._variables, method=method),
            lambda rows: self.pixels(photos[rows]),
            len(photos),
            _BATCH,
            "Pass fewer or smaller photos at once.",
        )
