"""A trained run as a classifier: from photos to names with probabilities."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

import apinet_jax
from apinet_jax.batches import in_batches
from apinet_jax.data.decoding import least_side
from apinet_jax.data.photos import Photo, Window, read_pixels
from apinet_jax.method.calibration import softmax
from apinet_jax.method.classify import classify_images
from apinet_jax.method.interaction import APINet
from apinet_jax.method.losses import PairLogits
from apinet_jax.models.layers import normalise
from apinet_jax.system.compiler_options import compiler_options
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath
from apinet_jax.trained_network import TrainedNetwork, read_network


class Provenance(NamedTuple):
    """Where an answer comes from.

    Attributes:
        checkpoint: Folder of the checkpoint.
        step: Its training steps.
        hash: The first 12 digits of the SHA-256 of its checksums.
        version: Version of apinet_jax that answers.
        temperature: What the logits are divided by.
    """

    checkpoint: str
    step: int
    hash: str
    version: str
    temperature: float


class Description(NamedTuple):
    """What the network says about photos.

    Attributes:
        features: Pooled features.
        logits: Scores of the classes, as evaluation computes them.
    """

    features: Float[np.ndarray, "N D"]
    logits: Float[np.ndarray, "N C"]


class Classifier:
    """A network with its weights, its class names and its preprocessing.

    Photos are paths (also `gs://`), encoded bytes, PIL images, or uint8 arrays [H W 3]. They pass
    through the same decoder, resize and central crop as test images, so `logits` are those of
    `--mode eval`.

    Attributes:
        network: The network and its weights.
        device: Where it computes.
        config: The run's configuration.
    """

    def __init__(
        self,
        run: AnyPath | str,
        checkpoint: str | int | None = None,
        device: jax.Device | None = None,
    ):
        """Load a checkpoint; nothing is compiled before the first photo.

        Args:
            run: A workdir, the folder of one checkpoint, or either in a bucket.
            checkpoint: `last`, `best` or a step. By default the one that the run chose: the best on
                held-out images where there were any, else the last.
            device: Where it computes; JAX's default device if not given.

        Raises:
            InputError: If there is no such checkpoint, or it cannot be read.
        """
        self.device = device or jax.devices()[0]
        self.network: TrainedNetwork = read_network(run, checkpoint, self.device)
        self.config = self.network.config
        model, preprocess = self.network.model, self.network.preprocess

        def apply(variables: dict[str, Any], images: Any, method: Callable[..., Any]) -> Any:
            images = normalise(images, preprocess.mean, preprocess.std, preprocess.dtype)
            return model.apply(variables, images, train=False, method=method)

        def classify(variables: dict[str, Any], images: Any) -> Any:
            return classify_images(
                **variables,
                images=images,
                model=model,
                preprocess=preprocess,
                flip=bool(self.config.eval.flip),
            )

        def describe(variables: dict[str, Any], images: Any) -> Description:
            features = apply(variables, images, APINet.features)
            return Description(features, classify(variables, images))

        compiled = partial(jax.jit, compiler_options=compiler_options(self.device.platform))
        self._classify = compiled(classify)
        self._describe = compiled(describe)
        self._features = compiled(partial(apply, method=APINet.features))
        self._feature_map = compiled(partial(apply, method=APINet.feature_map))

    @cached_property
    def provenance(self) -> Provenance:
        """Where the answers come from."""
        found = self.network
        version = apinet_jax.__version__
        return Provenance(str(found.folder), found.step, found.hash, version, found.temperature)

    @property
    def checkpoint(self) -> AnyPath:
        """Folder of the checkpoint."""
        return self.network.folder

    @property
    def workdir(self) -> AnyPath:
        """Folder of the run."""
        return self.network.workdir

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the logits."""
        return self.network.class_names

    @property
    def step(self) -> int:
        """Training steps of the checkpoint."""
        return self.network.step

    @property
    def temperature(self) -> float:
        """The divisor of the logits before probabilities are taken; see `TrainedNetwork`."""
        return self.network.temperature

    @property
    def has_gates(self) -> bool:
        """Whether the network compares pairs; the softmax baseline does not."""
        return self.network.model.interaction != "none"

    @property
    def has_maps(self) -> bool:
        """Whether the mean of the feature map is classified; not with `model.pool=token`."""
        return self.config.model.pool != "token"

    @property
    def kernel(self) -> Float[np.ndarray, "D C"]:
        """Weights of the classifier: the logits are `features @ kernel + bias` (equation 5)."""
        return np.asarray(self.network.variables["params"]["fc"]["kernel"])

    @property
    def bias(self) -> Float[np.ndarray, " C"]:
        """Bias of the classifier."""
        return np.asarray(self.network.variables["params"]["fc"]["bias"])

    def predict(
        self, photos: Sequence[Photo], top: int = 5, *, windows: Sequence[Window] | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return the most probable classes of each photo, best first.

        Args:
            photos: The photos.
            top: Classes to return of each; all if there are fewer.
            windows: See `pixels`.

        Returns:
            For each photo a list of (class name, probability), calibrated by `temperature`.
        """
        probability = softmax(self.logits(photos, windows=windows), self.temperature)
        best = np.argsort(-probability, axis=-1, kind="stable")[:, :top]
        return [
            [(self.class_names[label], float(row[label])) for label in labels]
            for row, labels in zip(probability, best, strict=True)
        ]

    def logits(
        self, photos: Sequence[Photo], *, windows: Sequence[Window] | None = None
    ) -> Float[np.ndarray, "N C"]:
        """Return the scores of each photo, as evaluation computes them; see `pixels`."""
        return self._in_batches(self._classify, photos, windows)

    def features(
        self, photos: Sequence[Photo], *, windows: Sequence[Window] | None = None
    ) -> Float[np.ndarray, "N D"]:
        """Return the pooled feature of each photo; see `pixels`."""
        return self._in_batches(self._features, photos, windows)

    def describe(
        self, photos: Sequence[Photo], *, windows: Sequence[Window] | None = None
    ) -> Description:
        """Return features and logits of each photo in one pass; see `pixels`."""
        return self._in_batches(self._describe, photos, windows)

    def describe_pixels(self, images: UInt8[np.ndarray, "B H W 3"]) -> Description:
        """Return features and logits of a batch of pixels that are cropped already."""
        return jax.tree.map(np.asarray, self._describe(self.network.variables, images))

    def map_pixels(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B h w D"]:
        """Return the feature maps of pixels that are cropped already; raise as `check_maps`."""
        self.check_maps()
        return np.asarray(self._feature_map(self.network.variables, images))

    def check_maps(self) -> None:
        """Raise InputError if the run only classifies the class token, which no cell belongs to."""
        if not self.has_maps:
            raise InputError(
                f"{self.checkpoint} classifies the class token of its trunk (model.pool = token), "
                "so no map shows the evidence for a class. Train with model.pool=map, or both."
            )

    def classify_pixels(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B C"]:
        """Return the scores of a batch of pixels that are cropped already."""
        return np.asarray(self._classify(self.network.variables, images))

    def gates(
        self, x_1: Float[np.ndarray, "P D"], x_2: Float[np.ndarray, "P D"]
    ) -> tuple[Float[np.ndarray, "P D"], Float[np.ndarray, "P D"]]:
        """Return the gates of both photos of each pair, from their features (equation 2).

        Raises:
            InputError: If the run is the softmax baseline, which has no gates.
        """
        return jax.tree.map(np.asarray, self._of_pairs(APINet.gate_vectors, x_1, x_2))

    def interact(self, x_1: Float[np.ndarray, "P D"], x_2: Float[np.ndarray, "P D"]) -> PairLogits:
        """Return the logits of the attentive features of each pair (equations 1 to 5).

        Raises:
            InputError: If the run is the softmax baseline, which has no gates.
        """
        return jax.tree.map(np.asarray, self._of_pairs(APINet.interact, x_1, x_2))

    def _of_pairs(self, method: Callable[..., Any], x_1: Any, x_2: Any) -> Any:
        if not self.has_gates:
            raise InputError(
                f"{self.checkpoint} is a softmax run, which has no gates to compare photos with."
            )
        return self._apply_to_pairs(self.network.variables, x_1, x_2, method=method)

    @cached_property
    def _apply_to_pairs(self) -> Callable[..., Any]:
        return jax.jit(partial(self.network.model.apply, train=False), static_argnames="method")

    def feature_map(
        self, photos: Sequence[Photo], *, windows: Sequence[Window] | None = None
    ) -> Float[np.ndarray, "N h w D"]:
        """Return the feature map of each photo, before pooling; see `pixels`."""
        return self._in_batches(self._feature_map, photos, windows)

    def pixels(
        self, photos: Sequence[Photo], *, windows: Sequence[Window] | None = None
    ) -> UInt8[np.ndarray, "N H W 3"]:
        """Return the pixels that the network sees of each photo.

        Args:
            photos: The photos.
            windows: The part of each photo to use, as x, y, width and height in pixels of the
                upright photo: the box of a run with `data.crop_to_box`, or an FGVC-Aircraft photo
                without the 20 rows of its banner. The complete photos by default.

        Raises:
            InputError: If a photo cannot be read, or a window is outside of it.
            TypeError: If it is a single photo instead of a sequence.
        """
        data = self.config.data
        least = least_side(data.decode, data.resize)
        return read_pixels(photos, windows, data.resize, data.crop, least)

    def _in_batches(
        self,
        function: Callable[..., Any],
        photos: Sequence[Photo],
        windows: Sequence[Window] | None,
    ) -> Any:
        """Apply a compiled function to batches of at most `eval.batch_size` photos."""

        def pixels(rows: slice) -> UInt8[np.ndarray, "B H W 3"]:
            return self.pixels(photos[rows], windows=None if windows is None else windows[rows])

        return in_batches(
            partial(function, self.network.variables),
            pixels,
            len(photos),
            self.config.eval.batch_size,
            "Pass fewer photos at once, or set eval.batch_size lower.",
        )
