"""A trained run as a classifier: from photos to names with probabilities."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Float, UInt8
from PIL import Image

from apinet_jax.config import recorded_config
from apinet_jax.data.decoding import decode, upright_rgb
from apinet_jax.data.transforms import center_crop, to_pixels
from apinet_jax.method.classify import classify_images
from apinet_jax.method.interaction import APINet
from apinet_jax.models.layers import normalise
from apinet_jax.setup.build import make_network
from apinet_jax.system.errors import InputError, explain_out_of_memory
from apinet_jax.system.paths import AnyPath, to_path
from apinet_jax.workdir.checkpoint import Weights, load_weights
from apinet_jax.workdir.checkpoint_files import resolve_checkpoint

Photo = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
Window = tuple[int, int, int, int]


def load(
    run: AnyPath | str, checkpoint: str | int | None = None, *, device: jax.Device | None = None
) -> "Classifier":
    """Load a trained run as a classifier.

    Args:
        run: A workdir, the folder of one checkpoint, or either in a bucket.
        checkpoint: `last`, `best` or a step. By default the one that the run chose: the best on
            held-out images where there were any, else the last.
        device: Where it computes; JAX's default device if not given.

    Raises:
        InputError: If there is no such checkpoint, or it cannot be read.

    >>> import apinet_jax
    >>> bird = apinet_jax.load("runs/x")  # doctest: +SKIP
    >>> bird.predict(["photo.jpg"], top=1)  # doctest: +SKIP
    [[('Laysan Albatross', 0.93)]]
    """
    folder = resolve_checkpoint(run, checkpoint)
    sharding = SingleDeviceSharding(device or jax.devices()[0])
    weights = load_weights(folder, sharding=sharding)
    return Classifier(folder, weights, _temperature(folder, weights.metadata["step"]))


class Classifier:
    """A network with its weights, its class names and its preprocessing.

    Photos are paths (also `gs://`), encoded bytes, PIL images, or uint8 arrays [H W 3]. They pass
    through the same decoder, resize and central crop as test images, so `logits` are those of
    `--mode eval`.

    Attributes:
        class_names: Name of each class, in the order of the logits.
        config: The run's configuration.
        checkpoint: Folder of the checkpoint.
        step: Training steps of the checkpoint.
        temperature: Divides the logits before probabilities are taken: fitted on held-out images
            at the end of the run, and 1 where none were held out, or for another checkpoint.
    """

    def __init__(self, checkpoint: AnyPath, weights: Weights, temperature: float = 1.0):
        """Prepare the network; nothing is compiled before the first photo."""
        self.checkpoint = checkpoint
        self.config: ml_collections.ConfigDict = recorded_config(weights.metadata["config"])
        self.class_names = tuple(weights.metadata["class_names"])
        self.step: int = weights.metadata["step"]
        self.temperature = temperature
        model, preprocess = make_network(self.config, len(self.class_names))
        self._variables = {"params": weights.params, "batch_stats": weights.batch_stats}

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

        self._classify = jax.jit(classify)
        self._features = jax.jit(partial(apply, method=APINet.features))
        self._feature_map = jax.jit(partial(apply, method=APINet.feature_map))

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
        scaled = self.logits(photos, windows=windows) / self.temperature
        probability = np.asarray(jax.nn.softmax(scaled, axis=-1))
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
        one_array = isinstance(photos, np.ndarray) and photos.ndim != 4
        if one_array or isinstance(photos, str | bytes | os.PathLike | Image.Image):
            raise TypeError("Pass a sequence of photos, as in [photo].")
        windows = [None] * len(photos) if windows is None else windows
        if len(windows) != len(photos):
            raise InputError(f"{len(windows)} windows for {len(photos)} photos: give one for each.")
        return np.stack(
            [
                self._pixels(index, photo, window)
                for index, (photo, window) in enumerate(zip(photos, windows, strict=True))
            ]
        )

    def _pixels(
        self, index: int, photo: Photo, window: Window | None
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Read one photo; its path or its place in the sequence names it in errors."""
        try:
            resized = to_pixels(_read(photo), window, self.config.data.resize)
        except (OSError, ValueError) as error:
            name = photo if isinstance(photo, str | os.PathLike) else f"number {index}"
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"The photo {name} cannot be read: {reason}.") from error
        return center_crop(resized, self.config.data.crop)

    def _in_batches(
        self,
        function: Callable[..., Any],
        photos: Sequence[Photo],
        windows: Sequence[Window] | None,
    ) -> Float[np.ndarray, "N *rest"]:
        """Apply a compiled function to batches of at most `eval.batch_size` photos."""
        if len(photos) == 0:
            raise InputError("There are no photos to classify: the sequence is empty.")
        parts = []
        with explain_out_of_memory("Pass fewer photos at once, or set eval.batch_size lower."):
            for rows in _batches(len(photos), self.config.eval.batch_size):
                part = None if windows is None else windows[rows]
                images = self.pixels(photos[rows], windows=part)
                # A padded batch: few sizes are compiled, whatever the number of photos.
                size = min(self.config.eval.batch_size, 1 << (len(images) - 1).bit_length())
                padded = np.pad(images, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)))
                parts.append(np.asarray(function(self._variables, padded))[: len(images)])
        return np.concatenate(parts)


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _read(photo: Photo) -> Image.Image:
    """Decode a photo into an upright RGB image."""
    if isinstance(photo, Image.Image):
        return upright_rgb(photo)
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[-1] != 3:
            raise ValueError(f"an array of {photo.dtype} {photo.shape} is not one of uint8 [H W 3]")
        return Image.fromarray(photo)
    return decode(photo if isinstance(photo, bytes) else to_path(photo).read_bytes())


def _temperature(checkpoint: AnyPath, step: int) -> float:
    """Return the temperature that the run fitted for this checkpoint, else 1."""
    results = checkpoint.parents[1] / "results.json"
    if not results.exists():
        return 1.0
    try:
        report = json.loads(results.read_text())
        if "calibration" not in report or report["steps"][report["chosen"]] != step:
            return 1.0
        return float(report["calibration"]["temperature"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{results} is damaged ({error}). Remove it to predict without a temperature."
        ) from error
