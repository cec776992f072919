"""The other side: the same in torch, with the pairs chosen on the host as the authors do.

Trunks are torchvision's and timm's. Variants are `eager`, `channels_last` and `compiled`, which
compiles the trunk with `torch.compile` on `channels_last` arrays.
"""

import time
from collections.abc import Callable

import numpy as np
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms

from apinet_jax.models import trunk_spec
from benchmarks.against.cases import (
    BATCHES,
    DECAY,
    HIDDEN,
    MARGIN,
    MOMENTUM,
    NUM_CLASSES,
    RATE,
    WIDTH,
    Case,
    draw_photos,
)

VARIANTS = ("eager", "channels_last", "compiled")


class Head(nn.Module):
    """The mutual MLP, the gates and the shared classifier."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.map1 = nn.Linear(2 * width, HIDDEN)
        self.map2 = nn.Linear(HIDDEN, width)
        self.fc = nn.Linear(width, num_classes)
        self.drop = nn.Dropout(0.5)

    def forward(self, x_1: torch.Tensor, x_2: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of both images under their own gate, then under the partner's."""
        mutual = self.map2(self.drop(self.map1(torch.cat([x_1, x_2], dim=1))))
        gate_1, gate_2 = torch.sigmoid(mutual * x_1), torch.sigmoid(mutual * x_2)
        attentive = (x_1 * gate_1 + x_1, x_2 * gate_2 + x_2, x_1 * gate_2 + x_1, x_2 * gate_1 + x_2)
        return [self.fc(self.drop(features)) for features in attentive]


def choose_pairs(features: torch.Tensor, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest image of the same class and of another one, row by row on the host."""
    with torch.no_grad():
        norms = features.square().sum(dim=1)
        distances = norms[:, None] + norms - 2 * features @ features.T
    distances = distances.cpu().numpy()
    intra, inter = [], []
    for row, label in enumerate(labels):
        same = labels == label
        others = np.where(same, np.inf, distances[row])
        same[row] = False
        intra.append(np.argmin(np.where(same, distances[row], np.inf)))
        inter.append(np.argmin(others))
    return np.array(intra), np.array(inter)


def pair_loss(head: Head, features: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """Return the objective of a batch, as in the authors' program."""
    intra, inter = choose_pairs(features, labels)
    first = np.concatenate([np.arange(len(labels))] * 2)
    second = np.concatenate([intra, inter])
    logits = head(features[first], features[second])
    targets = [torch.from_numpy(labels[side]) for side in (first, second)]
    cross_entropy = functional.cross_entropy(torch.cat(logits), torch.cat(targets * 2))
    own, other = (
        torch.cat(
            [
                functional.softmax(part, dim=1).gather(1, target[:, None])[:, 0]
                for part, target in zip(parts, targets, strict=True)
            ]
        )
        for parts in (logits[:2], logits[2:])
    )
    ones = torch.ones(len(own))
    ranking = functional.margin_ranking_loss(own, other, ones, margin=MARGIN)
    return cross_entropy + ranking


def make_trunk(name: str, side: int) -> nn.Module:
    """Return a trunk with pooled features."""
    spec = trunk_spec(name)
    if spec.library == "timm":
        sized = {"img_size": side, "global_pool": "avg"} if name.startswith("vit") else {}
        return timm.create_model(name, num_classes=0, **sized)
    model = torchvision.models.get_model(name)
    if name.startswith("squeezenet"):
        return nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.fc = nn.Identity()
    return model


def _input_call(case: Case) -> Callable[[], float]:
    """Crops of batches from a photo folder, by a worker for each core; the time of one batch."""
    folder = draw_photos(case)
    steps = transforms.Compose(
        [
            transforms.Resize((512, 512)),
            transforms.RandomCrop(case.side),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    photos = torchvision.datasets.ImageFolder(folder / "train", steps)
    count = case.classes * case.images
    draws = RandomSampler(photos, replacement=True, num_samples=(BATCHES + 1) * count)
    workers = torch.get_num_threads()
    loader = DataLoader(photos, count, sampler=draws, num_workers=workers)

    def call() -> float:
        batches = iter(loader)
        next(batches)  # starts the workers
        start = time.perf_counter()
        for _ in batches:
            pass
        return (time.perf_counter() - start) / BATCHES

    return call


def make_call(case: Case, variant: str) -> Callable[[], float | None]:
    """Return a function that computes a case once."""
    if case.kind == "input":
        return _input_call(case)
    count = case.classes * case.images
    labels = np.repeat(np.arange(case.classes), case.images)
    draw = np.random.default_rng(0)
    width = trunk_spec(case.trunk).width if case.trunk else WIDTH
    head = Head(width, max(NUM_CLASSES, case.classes))
    if case.kind == "head":
        features = torch.from_numpy(draw.standard_normal((count, WIDTH), np.float32))
        features.requires_grad_()
        leaves = [features, *head.parameters()]
        return lambda: torch.autograd.grad(pair_loss(head, features, labels), leaves)

    trunk = make_trunk(case.trunk, case.side)
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    trunk = trunk.to(memory_format=layout)
    if variant == "compiled":
        trunk.compile()
    pixels = draw.integers(0, 256, (count, 3, case.side, case.side), np.uint8)
    spec = trunk_spec(case.trunk)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    pixels = torch.from_numpy(pixels)

    def images() -> torch.Tensor:
        return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=layout)

    if case.kind == "infer":
        trunk.eval()

        def infer() -> None:
            with torch.inference_mode():
                head.fc(trunk(images()))

        return infer
    parameters = [*trunk.parameters(), *head.parameters()]
    sgd = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> None:
        loss = pair_loss(head, trunk(images()), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        loss.item()

    return step
