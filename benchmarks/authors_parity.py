"""Converts a checkpoint of the authors' program to ours and back, and compares with PyTorch.

    pip install "apinet_jax[torch]"
    python -m benchmarks.authors_parity --trunk resnet18 --trunk resnet101
    python -m benchmarks.authors_parity --goldens tests/goldens

The authors' network is built in torch, with weights that are a function of their names, and saved
as its `model_best.pth.tar`. The logits of images at the authors' 448 px must be the same in both
programs, and every bit of the tensors must survive the round trip. `--goldens` stores logits for
the tests, which need no torch.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from apinet_jax.__main__ import run_command
from apinet_jax.models.layers import normalise
from apinet_jax.setup.build import make_network
from apinet_jax.workdir.checkpoint import load_weights

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from numeric import max_error

TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101")


def pixels(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)


def our_logits(workdir: Path, images: np.ndarray) -> np.ndarray:
    weights = load_weights(workdir)
    config = ConfigDict(weights.metadata["config"])
    model, preprocess = make_network(config, len(weights.metadata["class_names"]))
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    return jax.jit(model.apply)(variables, normalise(images, *preprocess))


def same_bits(ours: dict, theirs: dict) -> int:
    """Check that all tensors but BatchNorm's counters are equal, and return their number."""
    import torch

    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    compared = [name for name in theirs if not name.endswith("num_batches_tracked")]
    for name in compared:
        assert torch.equal(ours[name], theirs[name]), name
    return len(compared)


def round_trip(name: str, folder: Path, convert: Callable[..., None]) -> None:
    import torch

    from benchmarks import authors_network

    model = authors_network.make_network(name)
    groups = model.conv.parameters(), [p for n, p in model.named_parameters() if "conv" not in n]
    optimizers = [torch.optim.SGD(list(group), 0.01, momentum=0.9) for group in groups]
    best = folder / "model_best.pth.tar"
    checkpoint = {
        "epoch": 100,
        "state_dict": model.state_dict(),
        "best_prec1": torch.tensor(88.6),
        "optimizer_conv": optimizers[0].state_dict(),
        "optimizer_fc": optimizers[1].state_dict(),
    }
    torch.save(checkpoint, best)

    convert(best, folder / "ours")
    images = pixels(448)
    theirs, ours = authors_network.logits_of(model, images), our_logits(folder / "ours", images)
    print(f"{name}: logits at 448 px differ by {max_error(ours, theirs):.1e} of their maximum")

    convert(folder / "ours", folder / "back.pth.tar", "--to=authors")
    back = torch.load(folder / "back.pth.tar", weights_only=True)["state_dict"]
    count = same_bits(back, model.state_dict())
    again = authors_network.make_network(name)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(back)
    assert np.array_equal(authors_network.logits_of(again, images), theirs)
    print(f"  authors -> ours -> authors: {count} tensors, every bit, and equal logits in torch")

    convert(folder / "ours", folder / "trunk.pth", "--to=torchvision")
    trunk = torch.load(folder / "trunk.pth", weights_only=True)
    bare = authors_network.ResNet(name)
    missing, unexpected = bare.load_state_dict(trunk, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    torch.save(bare.state_dict(), folder / "torchvision.pth")
    convert(folder / "torchvision.pth", folder / "trunk.safetensors")
    convert(folder / "trunk.safetensors", folder / "again.pth", "--to=torchvision")
    count = same_bits(torch.load(folder / "again.pth", weights_only=True), trunk)
    print(f"  trunk -> torchvision -> ours -> torchvision: {count} tensors, every bit")


def write_goldens(names: list[str], folder: Path) -> None:
    from benchmarks import authors_network

    for name in names:
        model, images = authors_network.make_network(name), pixels(64)
        shapes = {key: tuple(t.shape) for key, t in model.state_dict().items()}
        np.savez_compressed(
            folder / f"authors_{name}.npz",
            images=images,
            logits=authors_network.logits_of(model, images),
            names=np.array(list(shapes)),
            shapes=np.array([" ".join(map(str, shape)) for shape in shapes.values()]),
        )
        print(folder / f"authors_{name}.npz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trunk",
        action="append",
        choices=TRUNKS,
        help="may be repeated (default: resnet18, resnet50)",
    )
    parser.add_argument("--goldens", type=Path, metavar="FOLDER", help="only write these")
    arguments = parser.parse_args()
    names = arguments.trunk or ["resnet18", "resnet50"]
    if arguments.goldens:
        write_goldens(names, arguments.goldens)
        return

    def convert(*words: object) -> None:
        run_command(["convert", *map(str, words)])

    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            round_trip(name, Path(folder), convert)


if __name__ == "__main__":
    main()
