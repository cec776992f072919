"""The answers of a run to requests: photos in, plain data out."""

import asyncio
import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from apinet_jax.answers.explanation.explain import explanation_figures
from apinet_jax.answers.pairs.calibration import PairCalibration
from apinet_jax.answers.pairs.compare import compare_rows
from apinet_jax.answers.pairs.maps import maps_of_pixels
from apinet_jax.answers.photo_stream import Described
from apinet_jax.answers.pictures import overlay
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.answers.prediction.rows import make_row
from apinet_jax.answers.trained_run import TrainedRun
from apinet_jax.answers.unknown.open_world import OpenWorld, name_photos
from apinet_jax.data.decoding import least_side
from apinet_jax.inference import Description
from apinet_jax.serving.batcher import Batcher
from apinet_jax.serving.uploads import Limits, RefusedError, Upload, crop_upload, open_upload
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError, explain_out_of_memory

T = TypeVar("T")

DECODERS = 2  # threads that decode photos
EXEMPLARS = 3  # of each class


class Settings(NamedTuple):
    """What the answers depend on besides the run.

    Attributes:
        naming: How scores become names.
        world: Answers other than the classes of the run.
        limits: What a request may ask for.
    """

    naming: Naming
    world: OpenWorld = OpenWorld()
    limits: Limits = Limits()


class Service:
    """A run that answers requests; photos that arrive together share a batch.

    Attributes:
        run: The run.
        settings: See `Settings`.
        batcher: Its network.
    """

    def __init__(
        self,
        run: TrainedRun,
        settings: Settings,
        observe: Callable[[int, float], None] = lambda photos, seconds: None,
    ):
        """Keep the arguments; `observe` is that of `Batcher`."""
        self.run, self.settings = run, settings
        self._device = ThreadPoolExecutor(1, "device")  # everything that computes, one at a time
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self._exemplars, self._calibrated = EXEMPLARS, True
        self.batcher = Batcher(
            run.describe_pixels, self._device, run.config.data.crop, observe=observe
        )

    def prepare(self) -> None:
        """Compute what the first requests need: programs, and features of the run's photos.

        Raises:
            RunError: If the device runs out of memory.
        """
        with explain_out_of_memory("Serve from a device with more memory."):
            self.batcher.compile()
        try:
            if self.run.has_maps:  # else nothing is explained
                self.run.bank("train")
        except InputError as error:
            self._exemplars = 0
            say(f"NOTE: no training photos are shown: {error}")
        try:
            _ = self.run.pair_calibration
        except InputError as error:
            self._calibrated = False
            say(f"NOTE: pairs of photos get no probability: {error}")

    def close(self) -> None:
        """End the threads without waiting for work that has begun."""
        for pool in (self._decoders, self._device):
            pool.shutdown(wait=False, cancel_futures=True)

    async def predict(self, uploads: list[Upload], top: int) -> dict[str, Any]:
        """Return the names of photos; one that cannot be read has the reason instead.

        Raises:
            RefusedError: If a single photo was sent, and cannot be read; or none.
        """
        if not uploads:
            raise RefusedError(400, "No photo was sent.")
        if len(uploads) == 1:
            rows = [await self._row(uploads[0], top)]
        else:
            rows = await asyncio.gather(*(self._row_or_reason(each, top) for each in uploads))
        return {"photos": rows, "provenance": self.provenance()}

    async def compare(self, uploads: list[Upload], prior: float) -> dict[str, Any]:
        """Return whether two photos show one class, with maps of what the gates compare.

        Raises:
            RefusedError: If there are not two photos, or one cannot be read.
        """
        if len(uploads) != 2:
            raise RefusedError(400, f"{len(uploads)} photos were sent; two are compared.")
        crops = [await self._crop(upload) for upload in uploads]
        described = await asyncio.gather(*(self.batcher(crop) for crop in crops))
        both = Description(*(np.stack(arrays) for arrays in zip(*described, strict=True)))
        found, maps = await self._compute(partial(self._compare, crops, both, prior))
        return {**found, "maps": maps, "provenance": self.provenance()}

    async def explain(self, uploads: list[Upload], against: str | None) -> dict[str, Any]:
        """Return why a photo is its class and not another one, with pictures.

        Raises:
            RefusedError: If there is not one photo, it cannot be read, or has no such rival.
        """
        if len(uploads) != 1:
            raise RefusedError(400, f"{len(uploads)} photos were sent; one is explained.")
        if not self.run.has_maps:
            raise RefusedError(422, "This network classifies a class token, which has no map.")
        photo = await self._read(open_upload, uploads[0])
        return await self._compute(partial(self._explain, photo, against))

    def about(self) -> dict[str, Any]:
        """Return what the run is, and what requests may ask for."""
        run, world = self.run, self.settings.world
        return {
            "class_names": list(self.settings.naming.class_names),
            "trunk": run.config.model.trunk,
            "method": run.config.method,
            "pixels": run.config.data.crop,
            "explains": run.has_maps,
            "calibrated_pairs": self._calibrated,
            "unknown": None if world.detector is None else world.detector.name,
            "limits": self.settings.limits._asdict(),
            "provenance": self.provenance(),
        }

    def provenance(self) -> dict[str, Any]:
        """Return where the answers come from, without paths of this machine."""
        found = self.run.provenance._asdict()
        del found["checkpoint"]
        return found

    async def _row_or_reason(self, upload: Upload, top: int) -> dict[str, Any]:
        try:
            return await self._row(upload, top)
        except RefusedError as error:
            return {"photo": upload.name, "error": error.message, "classes": []}

    async def _row(self, upload: Upload, top: int) -> dict[str, Any]:
        features, logits = await self.batcher(await self._crop(upload))
        described = Described(logits[None], features[None], (None,))
        naming, world = self.settings.naming, self.settings.world
        name = partial(name_photos, described, naming, world, top)
        (answer,) = await self._decode(name)
        row = make_row(upload.name, answer, naming.class_names, None)
        del row["true_class"], row["correct"]
        return row

    async def _crop(self, upload: Upload) -> UInt8[np.ndarray, "H W 3"]:
        data = self.run.config.data
        cut = partial(crop_upload, resize=data.resize, crop=data.crop)
        return await self._read(cut, upload)

    async def _read(self, function: Callable[..., T], upload: Upload) -> T:
        """Apply a function to an upload, with the limits, as the run decodes photos."""
        least = least_side(self.run.config.data.decode, self.run.config.data.resize)
        limits = self.settings.limits
        return await self._decode(partial(function, upload, limits, least=least))

    async def _decode(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function)

    async def _compute(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._device, function)
        except InputError as error:
            raise RefusedError(422, str(error)) from error

    def _compare(
        self, crops: list[np.ndarray], described: Description, prior: float
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        run = self.run
        pair = np.array([[0, 1]])
        (found,) = compare_rows(run, self._pair_calibration, described, pair, prior)
        answer = found._asdict()
        for side in ("class_1", "class_2"):
            name, probability = answer[side]
            answer[side] = {"name": name, "probability": probability}
        if not run.has_maps:
            return answer, []
        maps = maps_of_pixels(run, np.stack(crops))
        pictures = []
        for side in (0, 1):
            cells = [evidence.cells for evidence in maps.evidence[side]]
            pictures.append(
                {
                    "photo": _picture(maps.pixels[side]),
                    "own_gate": self._map(maps.pixels[side], cells[0]),
                    "other_gate": self._map(maps.pixels[side], cells[-1]),
                }
            )
        return answer, pictures

    def _pair_calibration(self) -> PairCalibration:
        if not self._calibrated:
            raise InputError("The pairs of this run are not calibrated.")
        return self.run.pair_calibration

    def _explain(self, photo: UInt8[np.ndarray, "H W 3"], against: str | None) -> dict[str, Any]:
        found = self.run.explain(photo, against, exemplars=self._exemplars)
        return {
            **explanation_figures(found),
            "photo": _picture(found.pixels),
            "map": self._map(found.pixels, found.contrast),
            "exemplars": [
                {
                    "class_name": one.class_name,
                    "similarity": one.similarity,
                    "photo": _picture(one.pixels),
                }
                for one in found.exemplars
            ],
            "no_exemplars": None if found.exemplars else "the photos of the run are not here",
            "provenance": self.provenance(),
        }

    def _map(self, pixels: UInt8[np.ndarray, "H W 3"], cells: Float[np.ndarray, "h w"]) -> str:
        return _picture(overlay(pixels, cells, trunk=self.run.config.model.trunk, signed=True))


def _picture(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return a picture as the address of an `img`."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
