r"""Scores explanations of runs: does a map find what distinguishes a class from its rival?

    python -m benchmarks.explanations --birds=runs/answers-birds --draw=540 --cache=runs/drawings
    python -m benchmarks.explanations --photos=runs/answers-cub50

The folders are those of `python -m apinet_jax sweep` with configs/sweeps/answers_birds.py and
answers_photos.py. Birds are drawn for this purpose; none is in the data set. Each is explained
against the next species of its genus, which differs in one known part. Photos are test images,
explained against the most probable rival; only the drop of the probabilities is known for them.

Columns: `peak`: the largest value is in the visible part (the pointing game), `15 px`: or within 15
pixels; `energy`: share of the positive values inside the part; `RD`: Finer-CAM's RD@0.05;
`swap`: rank correlation, over the birds of a species, between the map inside the pixels that change
when the part is drawn as the rival's, and the drop of the difference of the logits; `parts`: the
same over the ten parts of a bird, of which nine are painted grey, mean over birds; `target`: how
often more energy is inside the part against this rival than against the best species of another
genus.

Each figure is a mean over runs and images, with a 95 % bootstrap interval over both. The second
table gives paired differences, over the same seeds and images.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from apinet_jax.answers.pictures import enlarge
from apinet_jax.answers.trained_run import TrainedRun, load
from apinet_jax.data.birds.species import SPECIES
from apinet_jax.method.calibration import softmax
from apinet_jax.models import TrunkSpec, trunk_spec
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import say
from benchmarks.bird_interventions import Birds, changed_pixels, draw_birds, draw_recoloured
from benchmarks.explanation_maps import Question, all_maps
from benchmarks.explanation_scores import (
    TOLERANCE,
    distances,
    energy_inside,
    energy_share,
    mask_largest,
    pointing,
    rank_correlation,
    rank_within,
    relative_drop,
)

SMALLEST = 10  # visible pixels of a part; birds with fewer are left out
DRAWS = 1000  # of the bootstrap
OURS, LESS_RIVAL = "contrast map", "Finer-CAM, gamma 0.6"
THE_PART = "the part, at the map's resolution"


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


Table = dict[tuple[str, str], dict[str, Interval]]  # (run, map) -> column
Scores = dict[str, dict[str, np.ndarray]]  # method -> column -> [N], or [2 N] for `swap`


def score_birds(run: TrainedRun, birds: Birds, recoloured: np.ndarray, seed: int) -> Scores:
    """Return the scores of every method on the birds."""
    before, after = _describe(run, birds.images), _describe(run, birds.swapped)
    first, rival = birds.labels, birds.rivals
    rows = np.arange(len(first))
    maps = _maps(run, birds.images)
    found = all_maps(run, Question(maps, first, rival), seed)
    other = all_maps(run, Question(maps, first, _best_of_another_genus(before, first)), seed)
    cells = pooled(birds.parts, maps.shape[1:3], trunk_spec(run.config.model.trunk))
    found[THE_PART] = other[THE_PART] = cells
    changed, away = changed_pixels(birds.images, birds.swapped), distances(birds.parts)

    def difference(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " N"]:
        some = rows[: len(logits)]
        return logits[some, first[some]] - logits[some, rival[some]]

    drop = difference(before) - difference(after)
    few, kinds = recoloured.shape[:2]
    grey = _describe(run, recoloured.reshape(-1, *recoloured.shape[2:])).reshape(few, kinds, -1)
    drops = [drop[:few]] + [
        difference(before[:few]) - difference(grey[:, kind]) for kind in range(kinds)
    ]
    regions = [changed[:few]] + [
        changed_pixels(birds.images[:few], recoloured[:, kind]) for kind in range(kinds)
    ]
    drops, regions = np.stack(drops, 1), np.stack(regions, 1)

    def score(name: str) -> dict[str, np.ndarray]:
        large, against_other = _enlarged(run, found[name]), _enlarged(run, other[name])
        inside = energy_share(large, birds.parts)
        elsewhere = energy_share(against_other, birds.parts)
        moved = np.where(inside == elsewhere, 0.5, inside > elsewhere)
        return {
            "peak": pointing(large, away, 0),
            "15 px": pointing(large, away, TOLERANCE),
            "energy": inside,
            "RD": _drop(run, large, birds.images, before, (first, rival)),
            "swap": np.stack(
                [rank_within(some, first) for some in (energy_inside(large, changed), drop)]
            ),
            "parts": rank_correlation(energy_inside(large[:few], regions), drops),
            "target": moved,
        }

    return {name: score(name) for name in found}


def score_photos(run: TrainedRun, limit: int, seed: int) -> Scores:
    """Return the drop of every method on test photos, against the most probable rival."""
    source = run.dataset.splits["test"]
    chosen = np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)
    images = run.pixels([source.read(index) for index in chosen.tolist()])
    before = _describe(run, images)
    order = np.argsort(-before, axis=1)
    pair = order[:, 0], order[:, 1]
    found = all_maps(run, Question(_maps(run, images), *pair), seed)
    return {
        name: {"RD": _drop(run, _enlarged(run, values), images, before, pair)}
        for name, values in found.items()
    }


def _drop(
    run: TrainedRun,
    large: np.ndarray,
    images: np.ndarray,
    logits: np.ndarray,
    pair: tuple[np.ndarray, np.ndarray],
) -> Float[np.ndarray, " N"]:
    """Return RD@0.05 of maps at the size of the images."""
    after = _describe(run, mask_largest(large, images))
    return relative_drop(softmax(logits), softmax(after), *pair)


def bootstrap(
    values: Float[np.ndarray, "S *two N"], less: Float[np.ndarray, "S *two N"] | None = None
) -> Interval:
    """Return a mean with its 95 % interval over runs and images.

    Args:
        values: The score of each run and image; with an axis of two, columns whose rank
            correlation over the images is the score of a run.
        less: Scores to subtract, of the same seeds and images.
    """

    def mean(some: np.ndarray) -> float:
        per_run = some if some.ndim == 2 else rank_correlation(some[:, 0], some[:, 1])
        return float(per_run.mean())

    def statistic(runs: np.ndarray, images: np.ndarray) -> float:
        both = (some[runs][..., images] for some in (values, less) if some is not None)
        first, *rest = map(mean, both)
        return first - sum(rest)

    random, (count, *_, size) = np.random.default_rng(0), values.shape
    draws = [
        statistic(random.integers(count, size=count), random.integers(size, size=size))
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(statistic(np.arange(count), np.arange(size)), float(low), float(high))


def summarise(kinds: dict[str, list[Scores]]) -> Table:
    """Return the interval of every column of every map of both kinds of runs."""
    return {
        (kind, name): {column: bootstrap(_stack(runs, name, column)) for column in columns}
        for kind, runs in kinds.items()
        for name, columns in runs[0].items()
    }


def compare(kinds: dict[str, list[Scores]]) -> Table:
    """Return paired differences: ours less CAM, API-Net's maps less softmax's and less ours."""
    rows = [(kind, OURS, kind, "CAM of the class") for kind in kinds]
    rows += [(kind, LESS_RIVAL, kind, "Finer-CAM, gamma 1") for kind in kinds]
    pair_maps = [name for name in kinds.get("API-Net", [{}])[0] if name.startswith("pair: ")]
    if len(kinds) == 2 and len({len(runs) for runs in kinds.values()}) == 1:
        rows += [("API-Net", name, "softmax", OURS) for name in (OURS, *pair_maps)]
        rows += [("API-Net", name, "softmax", LESS_RIVAL) for name in pair_maps]
    rows += [("API-Net", name, "API-Net", OURS) for name in pair_maps]
    return {
        (f"{kind} less {other}", f"{name} less {less}"): {
            column: bootstrap(_stack(kinds[kind], name, column), _stack(kinds[other], less, column))
            for column in kinds[kind][0][name]
        }
        for kind, name, other, less in rows
    }


def _stack(runs: Sequence[Scores], name: str, column: str) -> np.ndarray:
    return np.stack([scores[name][column] for scores in runs])


def lines_of(table: Table) -> list[str]:
    """Return the lines of a Markdown table."""
    columns = list(next(iter(table.values())))
    lines = ["| run | map | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for (kind, name), scores in table.items():
        cells = (_cell(column, scores[column]) for column in columns)
        lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    return lines


def _cell(column: str, found: Interval) -> str:
    if column in ("peak", "15 px", "energy", "target"):
        mean, low, high = (100 * value for value in found)
        return f"{mean:.1f} ({low:.1f} to {high:.1f})"
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _describe(run: TrainedRun, images: np.ndarray) -> Float[np.ndarray, "N C"]:
    return _batched(lambda part: run.describe_pixels(part).logits, run, images)


def _maps(run: TrainedRun, images: np.ndarray) -> Float[np.ndarray, "N h w D"]:
    return _batched(run.map_pixels, run, images)


def _batched(function: Callable, run: TrainedRun, images: np.ndarray) -> np.ndarray:
    """Apply a function to batches of one size; the last one is padded."""
    size = run.config.eval.batch_size
    padded = np.pad(images, ((0, -len(images) % size), (0, 0), (0, 0), (0, 0)))
    parts = [function(padded[start : start + size]) for start in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(images)]


def _best_of_another_genus(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    genus = np.array([species.genus.name for species in SPECIES])
    return np.where(genus[None] == genus[labels][:, None], -np.inf, logits).argmax(axis=1)


def _enlarged(run: TrainedRun, maps: Float[np.ndarray, "N h w"]) -> Float[np.ndarray, "N H W"]:
    """Return maps at the size of the images, as the pictures show them."""
    side, trunk = run.config.data.crop, run.config.model.trunk
    return np.stack([enlarge(values, side, side, trunk) for values in maps])


def pooled(
    parts: Bool[np.ndarray, "N H W"], shape: tuple[int, int], spec: TrunkSpec
) -> Float[np.ndarray, "N h w"]:
    """Return the pixels of a part that are nearest to each cell: the best such a map can do."""
    down, right = (
        np.rint((np.arange(side) - spec.first_centre(side)) / spec.cell_step).clip(0, cells - 1)
        == np.arange(cells)[:, None]
        for side, cells in zip(parts.shape[1:], shape, strict=True)
    )  # [h H], [w W]
    return np.einsum(
        "hH,nHW,wW->nhw", *(some.astype(float) for some in (down, parts, right)), optimize=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--birds", type=Path, metavar="FOLDER", help="runs on the drawn birds")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="runs on photos")
    parser.add_argument("--draw", type=int, default=540, help="birds to draw (default: 540)")
    parser.add_argument(
        "--recolour", type=int, default=120, help="of which with each part in grey (default: 120)"
    )
    parser.add_argument("--cache", type=Path, default=Path("drawings"), help="for the drawings")
    parser.add_argument("--limit", type=int, default=300, help="photos to use (default: 300)")
    arguments = parser.parse_args()
    folder = arguments.birds or arguments.photos
    if folder is None:
        parser.error("name a folder of runs with --birds or --photos")
    enable_compilation_cache()
    kinds: dict[str, list[Scores]] = defaultdict(list)
    for path in sorted(folder.glob("*/seed*")):
        run = load(path)
        seed = int(path.name.removeprefix("seed"))
        if arguments.photos:
            scores = score_photos(run, arguments.limit, seed)
        else:
            data = run.config.data.resize, run.config.data.crop, arguments.cache
            birds = draw_birds(arguments.draw // len(SPECIES), *data)
            recoloured = draw_recoloured(arguments.recolour // len(SPECIES), *data)
            seen = birds.parts.sum(axis=(1, 2)) >= SMALLEST
            hidden = np.flatnonzero(~seen[: len(recoloured)])
            birds = Birds(*(column[seen] for column in birds))
            scores = score_birds(run, birds, np.delete(recoloured, hidden, axis=0), seed)
            right = (_describe(run, birds.images).argmax(axis=1) == birds.labels).mean()
            say(f"{path}: {len(birds.labels)} birds with a visible part, {100 * right:.1f} % right")
        kinds["API-Net" if run.has_gates else "softmax"].append(scores)
    tables = [found for found in (summarise(kinds), compare(kinds)) if found]
    print("\n\n".join("\n".join(lines_of(found)) for found in tables))


if __name__ == "__main__":
    main()
