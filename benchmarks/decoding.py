"""Time and error of decoding JPEGs at reduced size (`data.decode=scaled`), on your photos.

    python -m benchmarks.decoding --photos=PHOTOS --resize=512

For each photo, on one core: decoding and resizing at full size, then at a half, a quarter or an
eighth where that leaves twice the side, the best of a few repeats. Prints the median over the
photos of both times, and how much the resized pixels differ, in grey levels of 255.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from apinet_jax.data.decoding import decode, least_side
from apinet_jax.data.transforms import resize
from apinet_jax.system.console import tracked


def timed(
    photo: bytes, size: int, least: int | None, repeats: int
) -> tuple[UInt8[np.ndarray, "R R 3"], float]:
    """Return the resized pixels of a photo, and the seconds that they took at best."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        pixels = resize(decode(photo, least), size)
        seconds.append(time.perf_counter() - began)
    return pixels, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--resize", type=int, default=512, help="data.resize (default: 512)")
    parser.add_argument("--count", type=int, default=100, help="photos (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, help="of each photo (default: 3)")
    options = parser.parse_args()
    found = sorted(p for p in options.photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"There are no JPEGs in {options.photos}.")
    chosen = found[:: -(-len(found) // options.count)]
    times, differences, reduced = [], [], 0
    least = least_side("scaled", options.resize)
    for path in tracked(chosen, "Decoding", len(chosen)):
        photo = path.read_bytes()
        reduced += decode(photo, least).size != decode(photo).size
        (full, slow), (scaled, fast) = (
            timed(photo, options.resize, side, options.repeats) for side in (None, least)
        )
        times.append((slow, fast))
        differences.append(np.abs(full.astype(int) - scaled).mean())
    slow, fast = 1000 * np.median(times, axis=0)
    print(f"{len(chosen)} photos at {options.resize}, of which {reduced} are reduced")
    print(
        f"ms a photo: {slow:.1f} at full size, {fast:.1f} scaled ({slow / fast:.2f} times as fast)"
    )
    print(f"mean difference {np.mean(differences):.2f}; of the worst photo {max(differences):.2f}")


if __name__ == "__main__":
    main()
