"""Numbers that several tests need: an error measure, and arrays that are a function of a name."""

import zlib

import numpy as np


def max_error(a, b) -> float:
    """Returns max|a - b| / max|b|, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    return float(np.abs(a - b).max() / np.abs(b).max())


def named_noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws standard normal numbers that are a function of a name, in float64."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def named_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws the tensor of that name and shape (torch's layout) that the golden figures assume."""
    g = named_noise(name, shape)
    if name.endswith("running_var"):
        g = np.exp(0.1 * g)
    elif len(shape) == 4:
        g *= np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) == 2:
        g *= np.sqrt(1 / shape[1])
    elif name.endswith("bn3.weight"):
        g = 0.3 + 0.03 * g
    elif name.endswith(("weight", "gamma")):
        g = 1 + 0.1 * g
    elif len(shape) == 1:  # biases and running means
        g *= 0.1
    return g.astype(np.float32)  # 3-D, tokens and position embeddings: as large as patches are


def sample(values) -> np.ndarray:
    """Returns at most 40,000 of the values, evenly spaced, as a file of golden figures holds."""
    flat = np.asarray(values).ravel()
    return flat[:: -(-flat.size // 40_000) | 1]  # odd, so that no channel is left out
