"""Takes a checkpoint of the authors' layout through `convert` and back, against PyTorch itself.

    pip install "apinet_jax[torch]"
    python benchmarks/authors_parity.py --trunk resnet18 --trunk resnet101
    python benchmarks/authors_parity.py --goldens tests/goldens

A network as in the authors' program is built in torch, with weights that are a function of their
names, and saved as its `model_best.pth.tar`. The logits of images at the authors' 448 px have to be
the same in both worlds, and tensors have to come back with every bit. `--goldens` stores logits
for the tests, which need no torch.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from apinet_jax.__main__ import run_command
from apinet_jax.models import IMAGENET_MEAN, IMAGENET_STD
from apinet_jax.models.layers import normalise
from apinet_jax.setup.build import make_network
from apinet_jax.workdir.checkpoint import load_weights

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from numeric import max_error, named_tensor

CLASSES, HIDDEN = 5, 512
DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


class Block(nn.Module):
    """torchvision's BasicBlock and Bottleneck, by the names of their layers."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: int):
        super().__init__()
        outputs = width * expansion
        sides = (1, 3, 1) if expansion == 4 else (3, 3)
        widths = [inputs, *[width] * (len(sides) - 1), outputs]
        strided = sides.index(3)
        for i, side in enumerate(sides):
            step = stride if i == strided else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], side, step, side // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.layers = len(sides)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the residual."""
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.layers else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's ResNet: the same children, in the same order."""

    def __init__(self, name: str):
        super().__init__()
        expansion = 1 if name in ("resnet18", "resnet34") else 4
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, depth in enumerate(DEPTHS[name]):
            blocks = []
            for index in range(depth):
                width, stride = 64 * 2**stage, 2 if stage and not index else 1
                blocks.append(Block(inputs, width, stride, expansion))
                inputs = width * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 1000)


class APINet(nn.Module):
    """The modules of the authors' program, and its forward pass of single images."""

    def __init__(self, name: str):
        super().__init__()
        trunk = ResNet(name)
        width = trunk.fc.in_features
        self.conv = nn.Sequential(*list(trunk.children())[:-2])
        self.avg = nn.AvgPool2d(kernel_size=14, stride=1)
        self.map1 = nn.Linear(2 * width, HIDDEN)
        self.map2 = nn.Linear(HIDDEN, width)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits; images of another size than 448 px are pooled over all their cells."""
        cells = self.conv(images)
        pooled = self.avg(cells) if cells.shape[-1] == 14 else cells.mean((2, 3))
        return self.fc(pooled.flatten(1))


def rule_made(name: str) -> APINet:
    model = APINet(name)
    model.conv = nn.DataParallel(model.conv)
    state = {
        key: torch.from_numpy(named_tensor(key, tuple(tensor.shape)))
        for key, tensor in model.state_dict().items()
        if tensor.ndim  # not the counters of BatchNorm
    }
    model.load_state_dict(state, strict=False)
    return model.eval()


def pixels(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)


def torch_logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # torchvision's ToTensor
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        return model((x - mean) / std).numpy()


def our_logits(workdir: Path, images: np.ndarray) -> np.ndarray:
    weights = load_weights(workdir)
    config = ConfigDict(weights.metadata["config"])
    model, preprocess = make_network(config, len(weights.metadata["class_names"]))
    variables = {"params": weights.params, "batch_stats": weights.batch_stats}
    return jax.jit(model.apply)(variables, normalise(images, *preprocess))


def same_bits(ours: dict, theirs: dict) -> int:
    """How many tensors there are; all of them have to be the same, but for BatchNorm's counters."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    compared = [name for name in theirs if not name.endswith("num_batches_tracked")]
    for name in compared:
        assert torch.equal(ours[name], theirs[name]), name
    return len(compared)


def round_trip(name: str, folder: Path, convert: Callable[..., None]) -> None:
    model = rule_made(name)
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
    theirs, ours = torch_logits(model, images), our_logits(folder / "ours", images)
    print(f"{name}: logits at 448 px differ by {max_error(ours, theirs):.1e} of their maximum")

    convert(folder / "ours", folder / "back.pth.tar", "--to=authors")
    back = torch.load(folder / "back.pth.tar", weights_only=True)["state_dict"]
    count = same_bits(back, model.state_dict())
    again = rule_made(name)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(back)
    assert np.array_equal(torch_logits(again, images), theirs)
    print(f"  authors -> ours -> authors: {count} tensors, every bit, and equal logits in torch")

    convert(folder / "ours", folder / "trunk.pth", "--to=torchvision")
    trunk = torch.load(folder / "trunk.pth", weights_only=True)
    bare = ResNet(name)
    missing, unexpected = bare.load_state_dict(trunk, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    torch.save(bare.state_dict(), folder / "torchvision.pth")
    convert(folder / "torchvision.pth", folder / "trunk.safetensors")
    convert(folder / "trunk.safetensors", folder / "again.pth", "--to=torchvision")
    count = same_bits(torch.load(folder / "again.pth", weights_only=True), trunk)
    print(f"  trunk -> torchvision -> ours -> torchvision: {count} tensors, every bit")


def write_goldens(names: list[str], folder: Path) -> None:
    for name in names:
        model, images = rule_made(name), pixels(64)
        shapes = {key: tuple(t.shape) for key, t in model.state_dict().items()}
        np.savez_compressed(
            folder / f"authors_{name}.npz",
            images=images,
            logits=torch_logits(model, images),
            names=np.array(list(shapes)),
            shapes=np.array([" ".join(map(str, shape)) for shape in shapes.values()]),
        )
        print(folder / f"authors_{name}.npz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", action="append", choices=list(DEPTHS))
    parser.add_argument("--goldens", type=Path, metavar="FOLDER", help="write those, and no more")
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
