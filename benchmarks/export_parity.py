"""Exports trunks as StableHLO and ONNX, and compares the files with the networks.

    python -m pip install --no-deps -r requirements-onnx.txt
    python -m benchmarks.export_parity --trunk resnet50 densenet121

Weights are drawn. Each network classifies photos of two sizes. Columns: largest difference of a
logit over the largest logit; whether every grey level of what it sees is Pillow's; megabytes;
seconds to write. `--format` names one format.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apinet_jax.config import default_config
from apinet_jax.data.photos import read_pixels
from apinet_jax.exports.onnx import ONNX, write_onnx
from apinet_jax.exports.programs import classify_crops
from apinet_jax.exports.stablehlo import StableHLO, write_stablehlo
from apinet_jax.models import LISTED_TRUNKS
from apinet_jax.setup.build import make_network
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.errors import InputError
from apinet_jax.trained_network import TrainedNetwork

CLASSES, RESIZE, SIZES = 50, 256, ((300, 200), (180, 260))
SIDES = {"swin_base_patch4_window12_384": 384, "swin_large_patch4_window12_384": 384}
WRITERS: dict[str, Any] = {
    "stablehlo": (lambda network, file: write_stablehlo(network, None, {}, file), StableHLO),
    "onnx": (lambda network, file: write_onnx(network, {}, file), ONNX),
}


def draw_network(trunk: str) -> TrainedNetwork:
    """Return an API-Net with drawn weights."""
    config = default_config()
    config.model.trunk, config.data.crop = trunk, SIDES.get(trunk, 224)
    config.data.resize = config.data.crop * RESIZE // 224
    model, preprocess = make_network(config, CLASSES)
    image = jnp.zeros((1, config.data.crop, config.data.crop, 3))
    draw = jax.jit(lambda key: model.init(key, image, train=False))
    return TrainedNetwork(
        folder=Path(),
        workdir=Path(),
        hash="",
        fingerprint=None,
        config=config,
        class_names=tuple(map(str, range(CLASSES))),
        step=0,
        temperature=1.0,
        model=model,
        preprocess=preprocess,
        variables={"batch_stats": {}, **draw(jax.random.key(0))},
    )


def compare(network: TrainedNetwork, format_: str) -> str:
    """Write a network, and return a row of the table."""
    write, read = WRITERS[format_]
    with tempfile.TemporaryDirectory() as folder:
        file, start = Path(folder, f"network.{format_}"), time.perf_counter()
        write(network, file)
        seconds, size = time.perf_counter() - start, file.stat().st_size / 1e6
        exported = read(file)
    classify = jax.jit(partial(classify_crops, network=network))
    random, data = np.random.default_rng(0), network.config.data
    errors, equal = [], True
    for height, width in SIZES:
        photo = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        crops = read_pixels([photo], None, data.resize, data.crop).astype(np.float32)
        expected = np.asarray(classify(network.variables, crops).logits)
        equal &= bool((exported.crops(photo) == crops).all())
        errors.append(
            np.abs(exported.classify_one(photo) - expected).max() / np.abs(expected).max()
        )
    grey = "equal" if equal else "differ"
    trunk = network.config.model.trunk
    return f"| `{trunk}` | {format_} | {max(errors):.1e} | {grey} | {size:.0f} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", nargs="+", default=list(LISTED_TRUNKS), help="default: all")
    parser.add_argument("--format", choices=list(WRITERS), help="default: both")
    arguments = parser.parse_args()
    enable_compilation_cache()
    print("| trunk | format | difference | pixels | MB | seconds |\n|---|---|---|---|---|---|")
    for trunk in arguments.trunk:
        network = draw_network(trunk)
        for format_ in [arguments.format] if arguments.format else WRITERS:
            try:
                print(compare(network, format_), flush=True)
            except InputError as error:
                print(f"| `{trunk}` | {format_} | refused: {error} |||||", flush=True)


if __name__ == "__main__":
    main()
