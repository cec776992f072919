"""Photos of several requests through the network together."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

SIZES = (1, 2, 4, 8, 16)


class Batcher:
    """Calls a compiled function with the photos that arrive within a few milliseconds.

    The function is only called with batches of a few fixed sizes, all of which are compiled before
    the first request. Missing photos are zeros.

    Attributes:
        sizes: Photos of a batch, ascending.
        wait: Seconds to wait for more photos after the first.
    """

    def __init__(
        self,
        function: Callable[[UInt8[np.ndarray, "B H W 3"]], Any],
        executor: Executor,
        crop: int,
        *,
        sizes: Sequence[int] = SIZES,
        wait: float = 0.004,
        observe: Callable[[int, float], None] = lambda photos, seconds: None,
    ):
        """Keep the arguments.

        Args:
            function: Pixels [B H W 3] -> arrays with a row for each photo.
            executor: A thread that runs it.
            crop: Height and width of the photos.
            sizes: See the class.
            wait: See the class.
            observe: Called with the photos and the seconds of each batch.
        """
        self.sizes, self.wait = tuple(sizes), wait
        self._function, self._executor, self._crop = function, executor, crop
        self._observe = observe
        self._queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()

    def compile(self) -> None:
        """Compile the function for all sizes."""
        for size in self.sizes:
            self._function(np.zeros((size, self._crop, self._crop, 3), np.uint8))

    async def __call__(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Any:
        """Return the row of one photo."""
        future = asyncio.get_running_loop().create_future()
        await self._queue.put((pixels, future))
        return await future

    async def run(self) -> None:
        """Serve photos until this task is cancelled."""
        while True:
            batch = [await self._queue.get()]
            until = time.monotonic() + self.wait
            while len(batch) < self.sizes[-1]:
                try:
                    left = until - time.monotonic()
                    batch.append(await asyncio.wait_for(self._queue.get(), max(left, 0)))
                except TimeoutError:
                    break
            await self._serve(batch)

    async def _serve(self, batch: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        waiting = [(pixels, future) for pixels, future in batch if not future.cancelled()]
        if not waiting:  # all their clients are gone
            return
        size = next(size for size in self.sizes if size >= len(waiting))
        photos = np.zeros((size, self._crop, self._crop, 3), np.uint8)
        for row, (pixels, _) in enumerate(waiting):
            photos[row] = pixels
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._executor, self._function, photos)
        except Exception as error:  # of the device; each of the requests fails with it
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        self._observe(len(waiting), time.monotonic() - start)
        for row, (_, future) in enumerate(waiting):
            if not future.done():
                future.set_result(jax.tree.map(lambda array, row=row: array[row], found))
