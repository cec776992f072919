"""ONNX: one graph from photos to probabilities, which ONNX Runtime runs without JAX.

It is written by jax2onnx, which cannot be an extra: it pins an older orbax, which it never imports.
The program is traced with operations that are converted correctly (`portable_operations`). What
does not depend on the photos, such as resampled positions, is computed beforehand.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, Float, UInt8

from apinet_jax.exports.programs import classify_crops, cut_crop
from apinet_jax.models.operations import portable_operations
from apinet_jax.system.errors import InputError, first_line
from apinet_jax.system.paths import write_atomically
from apinet_jax.trained_network import TrainedNetwork

PACKAGES = "jax2onnx==0.17.1 onnx onnx-ir onnxruntime equinox einops dm-pix sympy mpmath"
OUTPUTS = ("probabilities", "logits", "crops")
_FORMAT = "apinet_jax onnx 1"
_ABOUT = "apinet_jax"


def write_onnx(network: TrainedNetwork, about: dict[str, Any], file: Path) -> None:
    """Write a network as an ONNX graph.

    Its input is `photos`, uint8 [b h w 3] of any size; its outputs are `probabilities` [b C],
    `logits` [b C], and `crops` [b s s 3], what the network sees.

    Args:
        network: The network.
        about: Its description, which is stored in the metadata of the graph.
        file: The file to write.

    Raises:
        InputError: If the converter is not installed.
        RunError: If the file cannot be written.
    """
    try:
        with _quiet():
            import jax2onnx
    except ImportError as error:
        raise _missing(error) from error
    data = network.config.data

    def classify(photos: UInt8[Array, "B H W 3"]) -> tuple[Array, ...]:
        crops = cut_crop(photos, data.resize, data.crop)
        return (*classify_crops(network.variables, crops, network=network), crops)

    photos = jax.ShapeDtypeStruct((*export.symbolic_shape("b, h, w"), 3), jnp.uint8)
    with portable_operations():
        program = fold_constants(jax.make_jaxpr(classify)(photos))
    try:
        with _quiet():
            model = jax2onnx.to_onnx(
                program,
                inputs=[photos],
                input_names=["photos"],
                output_names=list(OUTPUTS),
                model_name="apinet_jax",
            )
        about = {"format": _FORMAT, **about}
        model.metadata_props.add(key=_ABOUT, value=json.dumps(about))
        content = model.SerializeToString()  # fails above 2 GB
    except Exception as error:  # the converter raises many kinds
        raise InputError(
            f"jax2onnx cannot convert the trunk {network.config.model.trunk} "
            f"({type(error).__name__}: {first_line(error)}). Export it as "
            "stablehlo."
        ) from error
    write_atomically(file, content)


def fold_constants(program: ClosedJaxpr) -> Callable[..., Any]:
    """Return a program without the operations that do not depend on its inputs.

    Operations with symbolic shapes depend on the inputs too: on their shapes.
    """
    jaxpr = program.jaxpr
    known, early, late = set(jaxpr.constvars), [], []
    for equation in jaxpr.eqns:
        if _is_symbolic(equation) or not all(
            isinstance(variable, Literal) or variable in known for variable in equation.invars
        ):
            late.append(equation)
        else:
            early.append(equation)
            known.update(equation.outvars)
    used = {v for equation in late for v in equation.invars if not isinstance(v, Literal)}
    constants = list(known & (used | set(jaxpr.outvars)))
    about = jaxpr.debug_info.with_unknown_names()
    first = Jaxpr(jaxpr.constvars, [], constants, early, debug_info=about)
    values = jax.jit(jaxpr_as_fun(ClosedJaxpr(first, program.consts)))()
    rest = Jaxpr(constants, jaxpr.invars, jaxpr.outvars, late, debug_info=about)
    return jaxpr_as_fun(ClosedJaxpr(rest, values))


def _is_symbolic(equation: Any) -> bool:
    sizes = [size for variable in equation.outvars for size in variable.aval.shape]
    return equation.primitive.name == "dim_as_value" or not all(
        isinstance(size, int) for size in sizes
    )


class ONNX:
    """A file of `write_onnx`, to run it on the CPU.

    Attributes:
        about: Its description.
        most_sizes: How many sizes of photos a comparison uses; `None` for all.
    """

    most_sizes = None

    def __init__(self, file: Path):
        """Read the file.

        Raises:
            InputError: If it is no such file, or ONNX Runtime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing(error) from error
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors; its warnings are about its own optimisations
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
            stored = self._session.get_modelmeta().custom_metadata_map
            self.about: dict[str, Any] = json.loads(stored[_ABOUT])
            if self.about["format"] != _FORMAT:
                raise ValueError(f"its format is {self.about['format']}")
        except Exception as error:  # the runtime raises many kinds
            reason = first_line(error)
            raise InputError(
                f"{file} is not an ONNX file of this project ({reason}). Write one with: "
                f"python -m apinet_jax export RUN {file} --format onnx"
            ) from error

    def crops(self, photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "1 h w 3"]:
        """Return what the network sees of a photo."""
        return self._session.run(["crops"], {"photos": photo[None]})[0]

    def classify(self, photos: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B C"]:
        """Return the scores of photos of one size."""
        return self._session.run(["logits"], {"photos": photos})[0]

    def classify_one(self, photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "1 C"]:
        """Return the scores of one photo."""
        return self.classify(photo[None])


def _missing(error: ImportError) -> InputError:
    return InputError(
        f"The format onnx needs packages that are not installed ({error}). Install them with:\n"
        f"  python -m pip install --no-deps {PACKAGES}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of jax2onnx's examples, and of types that the graph does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
