"""Parts of a folder of photos by class numbers, and the runs of a sweep on them."""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from apinet_jax import load
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.data.records.layout import is_image
from apinet_jax.system.errors import InputError

METHODS = {"apinet": "API-Net", "softmax": "softmax"}


def class_folders(photos: Path, split: str) -> list[Path]:
    """Return the class folders of a split, sorted: class number n is the n-th."""
    if not (photos / split).is_dir():
        raise SystemExit(f"{photos} has no folder {split}.")
    return sorted(path for path in (photos / split).iterdir() if path.is_dir())


def photos_of(photos: Path, split: str, numbers: Sequence[int]) -> tuple[list[Path], list[int]]:
    """Return the photos of some classes, and the class number of each."""
    folders = class_folders(photos, split)
    files = [
        (path, number)
        for number in numbers
        for path in sorted(folders[number].iterdir())
        if is_image(path.name)
    ]
    return [path for path, _ in files], [number for _, number in files]


def link_classes(photos: Path, numbers: Sequence[int], folder: Path) -> None:
    """Make a data folder with links to some of the classes."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            target = class_folders(photos, split)[number]
            (folder / split / target.name).symlink_to(target.resolve())
    print(f"{folder} has links to {len(numbers)} classes of {photos}.")


def runs_of(folder: Path, photos: Path, numbers: Sequence[int]) -> Iterator[tuple[str, TrainedRun]]:
    """Yield method and run of each finished run of a sweep on exactly these classes."""
    names = tuple(class_folders(photos, "train")[number].name for number in numbers)
    found = sorted(path.parent for path in folder.glob("*/seed*/results.json"))
    if not found:
        raise SystemExit(f"{folder} has no finished run.")
    for workdir in found:
        run = load(workdir)
        if run.class_names != names:
            raise InputError(f"{workdir} was trained on other classes.")
        print(f"{workdir}", flush=True)
        yield METHODS[run.config.method], run


def mean_sd(values: Sequence[float]) -> str:
    """Return mean and standard deviation in percent."""
    percent = [100 * value for value in values]
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{statistics.mean(percent):.1f} ± {statistics.stdev(percent):.1f}"


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def parser(doc: str, link: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that these benchmarks share."""
    found = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--photos", type=Path, required=True, help="cub50: folders train, test")
    found.add_argument("--link", type=Path, metavar="FOLDER", help=f"only make a folder of {link}")
    found.add_argument("--runs", type=Path, help="folder of the sweep on that folder")
    return found
