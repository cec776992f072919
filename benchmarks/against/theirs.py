"""The other side: the same in torch, with the pairs chosen on the host as the authors do.

Trunks are torchvision's and timm's. Variants are `eager`, `channels_last` and `compiled`, which
compiles the trunk with `torch.compile` on `channels_last` arrays.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms

from apinet_jax.models import trunk_spec
from benchmarks.against.cases import (
    CASES,
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

Call = Callable[[], float | None]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    distances = distances.float().cpu().numpy()
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
    targets = [torch.from_numpy(labels[side]).to(features.device) for side in (first, second)]
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
    ones = torch.ones_like(own)
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


def training_crops(case: Case) -> transforms.Compose:
    """Return the transform of a training photo."""
    cut = [transforms.RandomCrop(case.side), transforms.RandomHorizontalFlip()]
    return _transform(case, *cut)


def _transform(case: Case, *cut: nn.Module) -> transforms.Compose:
    side = case.side * 8 // 7
    to_tensor = (transforms.ToTensor(), transforms.Normalize(MEAN, STD))
    return transforms.Compose([transforms.Resize((side, side)), *cut, *to_tensor])


def make_loader(case: Case, folder: Path) -> DataLoader:
    """Return crops of random photos of a folder, loaded by a worker for each core."""
    photos = torchvision.datasets.ImageFolder(folder / "train", training_crops(case))
    count = case.classes * case.images
    draws = RandomSampler(photos, replacement=True, num_samples=(case.batches + 1) * count)
    return DataLoader(photos, count, sampler=draws, num_workers=torch.get_num_threads())


def make_network(case: Case, variant: str) -> tuple[nn.Module, Head, torch.memory_format]:
    """Return trunk and head, and the layout of images."""
    trunk = make_trunk(case.trunk, case.side)
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    trunk = trunk.to(DEVICE, memory_format=layout)
    if variant == "compiled":
        trunk.compile()
    head = Head(trunk_spec(case.trunk).width, max(NUM_CLASSES, case.classes)).to(DEVICE)
    return trunk, head, layout


def compute_type(case: Case) -> torch.autocast:
    """Return the context of the forward pass."""
    return torch.autocast(DEVICE, torch.bfloat16, enabled=case.dtype == "bfloat16")


def make_step(case: Case, variant: str) -> Callable[[torch.Tensor, np.ndarray], None]:
    """Return the training step."""
    trunk, head, layout = make_network(case, variant)
    parameters = [*trunk.parameters(), *head.parameters()]
    sgd = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step(images: torch.Tensor, labels: np.ndarray) -> None:
        images = images.to(DEVICE, memory_format=layout)
        with compute_type(case):
            loss = pair_loss(head, trunk(images), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        loss.item()

    return step


def make_call(case: Case, variant: str) -> Call:
    """Return a function that computes a case once.

    It returns the seconds if they are not those of the whole call.
    """
    make = {
        **{"head": _head_call, "train": _network_call, "infer": _network_call},
        **{"input": _stream_call, "epoch": _stream_call},
        **{"start": _process_call, "photo": _process_call, "photos": _photos_call},
    }
    return make[case.kind](case, variant)


def _head_call(case: Case, _: str) -> Call:
    labels = np.repeat(np.arange(case.classes), case.images)
    head = Head(WIDTH, max(NUM_CLASSES, case.classes)).to(DEVICE)
    draw = np.random.default_rng(0).standard_normal((len(labels), WIDTH), np.float32)
    features = torch.from_numpy(draw).to(DEVICE).requires_grad_()
    leaves = [features, *head.parameters()]

    def call() -> None:
        torch.autograd.grad(pair_loss(head, features, labels), leaves)[0].cpu()  # exist then

    return call


def _network_call(case: Case, variant: str) -> Call:
    """A training step or the logits of images of noise."""
    labels = np.repeat(np.arange(case.classes), case.images)
    shape = (len(labels), 3, case.side, case.side)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    spec, pixels = trunk_spec(case.trunk), pixels.to(DEVICE)
    mean, std = (torch.tensor(v, device=DEVICE).view(1, 3, 1, 1) for v in (spec.mean, spec.std))

    def images() -> torch.Tensor:
        return (pixels.float() / 255 - mean) / std

    if case.kind == "train":
        step = make_step(case, variant)
        return lambda: step(images(), labels)
    trunk, head, layout = make_network(case, variant)
    trunk.eval()

    def infer() -> None:
        with torch.inference_mode(), compute_type(case):
            logits = head.fc(trunk(images().contiguous(memory_format=layout)))
        logits.cpu()  # exist then

    return infer


def _stream_call(case: Case, variant: str) -> Call:
    """Crops of batches, for `epoch` with a training step on each; the time of one batch."""
    loader = make_loader(case, draw_photos(case))
    step = make_step(case, variant) if case.kind == "epoch" else lambda images, labels: None

    def call() -> float:
        batches = iter(loader)
        images, labels = next(batches)  # starts the workers
        step(images, labels.numpy())
        start = time.perf_counter()
        for images, labels in batches:
            step(images, labels.numpy())
        return (time.perf_counter() - start) / case.batches

    return call


def _photos_call(case: Case, variant: str) -> Call:
    """The most likely classes of all photos."""
    trunk, head, layout = make_network(case, variant)
    trunk.eval()
    transform = _transform(case, transforms.CenterCrop(case.side))
    photos = torchvision.datasets.ImageFolder(draw_photos(case) / "train", transform)
    loader = DataLoader(photos, 60, num_workers=torch.get_num_threads())

    def call() -> None:
        with torch.inference_mode():
            for images, _ in loader:
                logits = head.fc(trunk(images.to(DEVICE, memory_format=layout)))
                functional.softmax(logits, dim=1).topk(5)

    return call


def _process_call(case: Case, variant: str) -> Call:
    """A new process that trains for one step, or names one photo; the time until it says so."""
    folder = draw_photos(case)
    if case.kind == "photo":
        trunk, head, _ = make_network(case, variant)
        torch.save((trunk.state_dict(), head.state_dict()), folder / "weights.pt")
    command = [sys.executable, "-m", __name__, variant, case.name, str(folder)]

    def call() -> float:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            if not process.stdout.readline():
                raise RuntimeError("the process ended too early")
            seconds = time.perf_counter() - start
            process.kill()
        return seconds

    return call


def main() -> None:
    """What a new process does, as a short script of a user would."""
    variant, name, folder = sys.argv[1:]
    case, folder = CASES[name], Path(folder)
    if case.kind == "start":
        images, labels = next(iter(make_loader(case, folder)))
        make_step(case, variant)(images, labels.numpy())
        print("done", flush=True)
        return
    trunk, head, _ = make_network(case, variant)
    for module, weights in zip((trunk, head), torch.load(folder / "weights.pt"), strict=True):
        module.load_state_dict(weights)
    trunk.eval()
    transform = _transform(case, transforms.CenterCrop(case.side))
    with Image.open(next((folder / "test").rglob("*.jpg"))) as photo, torch.inference_mode():
        logits = head.fc(trunk(transform(photo.convert("RGB"))[None].to(DEVICE)))
    print(functional.softmax(logits, dim=1).topk(5), flush=True)


if __name__ == "__main__":
    main()
