"""StableHLO: one file that JAX runs on CPUs, CUDA and TPUs, without this package.

The file is in NumPy's npz format. It has the weights, a description `about` in JSON, and programs,
serialised by `jax.export`, which take the weights as their first argument:

    classify        photos of one size [b h w 3] -> probabilities [b C], logits [b C]
    compare         photos [b h w 3] and [b i j 3] -> probability that both show one class [b],
                    probabilities of both [b C]; missing where the run is not calibrated for pairs
    crop            photos of one size [b h w 3] -> what the network sees of them [b s s 3]
    classify_crops  the rest of `classify`, which is not compiled again for each size of photos

Photos are uint8 RGB, and all their sizes are symbolic.
"""

import io
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Float, UInt8

from apinet_jax.answers.pairs.calibration import PairCalibration
from apinet_jax.exports.programs import classify_crops, classify_photos, compare_photos, cut_crop
from apinet_jax.system.compiler_options import compiler_options
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import write_atomically
from apinet_jax.trained_network import TrainedNetwork

PLATFORMS = ("cpu", "cuda", "tpu")
_FORMAT = "apinet_jax stablehlo 1"


def write_stablehlo(
    network: TrainedNetwork,
    calibration: PairCalibration | None,
    about: dict[str, Any],
    file: Path,
) -> None:
    """Write a network as StableHLO.

    Args:
        network: The network.
        calibration: The map from scores to probabilities of pairs; `None` to leave out `compare`.
        about: Its description.
        file: The file to write.

    Raises:
        RunError: If the file cannot be written.
    """
    leaves, structure = jax.tree.flatten(network.variables)
    specs = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    b, h, w, i, j = export.symbolic_shape("b, h, w, i, j")
    photos, others = (jax.ShapeDtypeStruct((b, *size, 3), jnp.uint8) for size in ((h, w), (i, j)))
    size = network.config.data.crop
    crops = jax.ShapeDtypeStruct((b, size, size, 3), jnp.float32)
    cut = partial(cut_crop, resize=network.config.data.resize, crop=size)
    programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "classify": (partial(classify_photos, network=network), (photos,)),
        "crop": (lambda variables, pixels: (cut(pixels),), (photos,)),
        "classify_crops": (partial(classify_crops, network=network), (crops,)),
    }
    if calibration is not None:
        compare = partial(compare_photos, network=network, calibration=calibration)
        programs["compare"] = compare, (photos, others)

    def serialised(function: Callable[..., Any], inputs: tuple[Any, ...]) -> np.ndarray:
        def of_leaves(leaves: list[Any], *arrays: Any) -> tuple[Any, ...]:
            return tuple(function(jax.tree.unflatten(structure, leaves), *arrays))

        exported = export.export(jax.jit(of_leaves), platforms=PLATFORMS)(specs, *inputs)
        return np.frombuffer(exported.serialize(), np.uint8)

    arrays = {name: serialised(*program) for name, program in programs.items()}
    arrays |= {_weight(number): np.asarray(leaf) for number, leaf in enumerate(leaves)}
    about = {"format": _FORMAT, **about, "weights": len(leaves), "platforms": PLATFORMS}
    content = io.BytesIO()
    np.savez(content, about=np.array(json.dumps(about)), **arrays)
    write_atomically(file, content.getvalue())


def _weight(number: int) -> str:
    return f"weight_{number}"


class StableHLO:
    """A file of `write_stablehlo`, to run it.

    Attributes:
        about: Its description.
        most_sizes: How many sizes of photos a comparison uses: each needs a compiled program.
    """

    most_sizes = 50

    def __init__(self, file: Path):
        """Read the file; its programs are compiled when they are first needed.

        Raises:
            InputError: If it is no such file.
        """
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
                self.about: dict[str, Any] = json.loads(str(arrays["about"]))
                if self.about["format"] != _FORMAT:
                    raise ValueError(f"its format is {self.about['format']}")
                self._programs = {
                    name: arrays[name].tobytes() for name in ("classify", "crop", "classify_crops")
                }
                count = self.about["weights"]
                self._weights = [arrays[_weight(number)] for number in range(count)]
        except Exception as error:  # zipfile and numpy raise many kinds
            raise InputError(
                f"{file} is not a StableHLO file of this project ({error}). Write one with: "
                f"python -m apinet_jax export RUN {file} --format stablehlo"
            ) from error

    def crops(self, photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "1 h w 3"]:
        """Return what the network sees of a photo."""
        return np.asarray(self._crop(photo[None])[0])

    def classify(self, photos: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B C"]:
        """Return the scores of photos of one size; compiles for each size of the array."""
        return np.asarray(self._classify(photos)[1])

    def classify_one(self, photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "1 C"]:
        """Return the scores of one photo; of the network, nothing is compiled for its size."""
        return np.asarray(self._classify_crops(self.crops(photo))[1])

    @cached_property
    def _on_device(self) -> list[jax.Array]:
        return jax.device_put(self._weights)

    @cached_property
    def _crop(self) -> Callable[..., Any]:
        return self._compiled("crop")

    @cached_property
    def _classify_crops(self) -> Callable[..., Any]:
        return self._compiled("classify_crops")

    @cached_property
    def _classify(self) -> Callable[..., Any]:
        return self._compiled("classify")

    def _compiled(self, name: str) -> Callable[..., Any]:
        program = export.deserialize(bytearray(self._programs[name]))
        # As arguments: constants would be copied by the compiler.
        options = compiler_options(jax.default_backend())
        return partial(jax.jit(program.call, compiler_options=options), self._on_device)
