"""Scores of a map, for images whose differing part is known or whose logits can be asked again."""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import distance_transform_edt

TOLERANCE = 15  # pixels, as in Zhang et al. (ECCV 2016), who introduced the pointing game
MASKED = 0.05  # share of the pixels, as in Finer-CAM


def distances(parts: Bool[np.ndarray, "N H W"]) -> Float[np.ndarray, "N H W"]:
    """Return the distance of each pixel to the part of its image, in pixels; 0 inside."""
    return np.stack([distance_transform_edt(~part) for part in parts])


def pointing(
    maps: Float[np.ndarray, "N H W"], away: Float[np.ndarray, "N H W"], tolerance: float
) -> Float[np.ndarray, " N"]:
    """Return 1 where the largest value is in the part, or within `tolerance` pixels of it."""
    place = maps.reshape(len(maps), -1).argmax(axis=1)
    found = away.reshape(len(maps), -1)[np.arange(len(maps)), place]
    return (found <= tolerance).astype(float)


def energy_share(
    maps: Float[np.ndarray, "N H W"], parts: Bool[np.ndarray, "N H W"]
) -> Float[np.ndarray, " N"]:
    """Return the share of a map's positive values inside the part; 0 for a map without any."""
    positive = np.maximum(maps, 0)
    total = positive.sum(axis=(1, 2))
    return (positive * parts).sum(axis=(1, 2)) / np.where(total > 0, total, 1)


def mask_largest(
    maps: Float[np.ndarray, "N H W"], images: UInt8[np.ndarray, "N H W 3"]
) -> UInt8[np.ndarray, "N H W 3"]:
    """Return the images with the 5 % largest pixels of their maps in their mean colour."""
    count = round(MASKED * maps[0].size)
    masked = images.reshape(len(images), -1, 3).copy()
    largest = np.argpartition(-maps.reshape(len(maps), -1), count, axis=1)[:, :count]
    rows = np.arange(len(maps))[:, None]
    masked[rows, largest] = np.rint(masked.mean(axis=1, keepdims=True)).astype(np.uint8)
    return masked.reshape(images.shape)


def relative_drop(
    before: Float[np.ndarray, "N C"],
    after: Float[np.ndarray, "N C"],
    first: Int[np.ndarray, " N"],
    rival: Int[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Return Finer-CAM's RD: how much more probability the class loses than its rival."""
    drop, rows = before - after, np.arange(len(first))
    return drop[rows, first] - drop[rows, rival]


def energy_inside(
    maps: Float[np.ndarray, "N H W"], regions: Bool[np.ndarray, "N *J H W"]
) -> Float[np.ndarray, "N *J"]:
    """Return the importance of each region: the sum of the map over its pixels."""
    return np.einsum("nhw,n...hw->n...", maps, regions.astype(np.float32))


def rank_correlation(
    a: Float[np.ndarray, "*N J"], b: Float[np.ndarray, "*N J"]
) -> Float[np.ndarray, "*N"]:
    """Return Spearman's correlation along the last axis; 0 where one side is constant."""
    a, b = (_ranks(values) for values in (a, b))
    a, b = (values - values.mean(axis=-1, keepdims=True) for values in (a, b))
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return (a * b).sum(axis=-1) / np.where(scale > 0, scale, 1) * (scale > 0)


def rank_within(
    values: Float[np.ndarray, " N"], groups: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Return the rank of each value in its group, from 0 to 1.

    Correlations of these do not profit from differences between the groups.
    """
    ranks = np.empty(len(values))
    for group in np.unique(groups):
        inside = groups == group
        ranks[inside] = _ranks(values[inside]) / inside.sum()
    return ranks


def _ranks(values: Float[np.ndarray, "*N J"]) -> Float[np.ndarray, "*N J"]:
    from scipy.stats import rankdata  # slow to import

    return rankdata(values, axis=-1)
