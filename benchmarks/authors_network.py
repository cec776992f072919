"""The network of the authors' program, in torch, with weights that follow from their names."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from apinet_jax.models import IMAGENET_MEAN, IMAGENET_STD

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))
from numeric import named_tensor

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
        """Add the residual to what the layers return."""
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
        """Return logits; images of another size than 448 px are pooled over all their cells."""
        cells = self.conv(images)
        pooled = self.avg(cells) if cells.shape[-1] == 14 else cells.mean((2, 3))
        return self.fc(pooled.flatten(1))


def make_network(name: str) -> APINet:
    model = APINet(name)
    model.conv = nn.DataParallel(model.conv)
    state = {
        key: torch.from_numpy(named_tensor(key, tuple(tensor.shape)))
        for key, tensor in model.state_dict().items()
        if tensor.ndim  # not the counters of BatchNorm
    }
    model.load_state_dict(state, strict=False)
    return model.eval()


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # torchvision's ToTensor
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        return model((x - mean) / std).numpy()
