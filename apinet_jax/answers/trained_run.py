"""A trained run with its photos: the classifier that also compares, explains and audits."""

from collections.abc import Sequence
from functools import cached_property

import jax

from apinet_jax.answers.audits.audit import Audit, Images, audit_images
from apinet_jax.answers.bank import Bank, read_bank
from apinet_jax.answers.explanation.explain import Explanation, explain_photo
from apinet_jax.answers.pairs.calibration import (
    PairCalibration,
    check_prior,
    published_calibration,
    read_pair_calibration,
)
from apinet_jax.answers.pairs.compare import Comparison, compare_rows, unique_photos
from apinet_jax.answers.unknown.detector import Detector, Verdict, read_detector
from apinet_jax.answers.unknown.gallery import read_class_means, read_gallery
from apinet_jax.answers.unknown.open_world import OpenWorld
from apinet_jax.answers.unknown.scores import DEFAULT_SCORE, FALSE_ALARMS
from apinet_jax.data.photos import Photo, Window
from apinet_jax.data.source import Dataset
from apinet_jax.inference import Classifier
from apinet_jax.method.calibration import softmax
from apinet_jax.setup.build import make_dataset
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath


def load(
    run: AnyPath | str,
    checkpoint: str | int | None = None,
    *,
    device: jax.Device | None = None,
    data_dir: str | None = None,
) -> "TrainedRun":
    """Load a trained run as a classifier.

    Args:
        run: A workdir, the folder of one checkpoint, or either in a bucket; or a folder that was
            written by `export --format hub`, or `hf:OWNER/NAME` for one on the Hugging Face hub.
        checkpoint: `last`, `best` or a step. By default the one that the run chose: the best on
            held-out images where there were any, else the last.
        device: Where it computes; JAX's default device if not given.
        data_dir: Where the run's photos are stored now, if they were moved.

    Returns:
        The run, which answers about photos; nothing is compiled before the first photo.

    Raises:
        InputError: If there is no such checkpoint, or it cannot be read.

    Examples:
        >>> import apinet_jax
        >>> bird = apinet_jax.load("runs/x")  # doctest: +SKIP
        >>> bird.predict(["photo.jpg"], top=1)  # doctest: +SKIP
        [[('Laysan Albatross', 0.93)]]
    """
    found = TrainedRun(run, checkpoint, device)
    if data_dir is not None:
        found.config.data.dir = data_dir
    return found


class TrainedRun(Classifier):
    """A classifier that knows the photos of its run.

    Prediction needs only the checkpoint. What is calibrated on held-out images, or shows training
    images, opens the photos of the run when it is first asked for.
    """

    @cached_property
    def dataset(self) -> Dataset:
        """The photos of the run, with the held-out ones as `validation`.

        Raises:
            InputError: If they are missing, or not those that the run was trained on.
        """
        workdir = self.workdir
        if self.network.published is not None and not self.config.data.dir:
            raise InputError(
                f"{self.checkpoint} is a published network, without the photos that it was trained "
                "on. If you have them, name their folder with --data-dir (`data_dir` of load)."
            )
        known = self.network.fingerprint
        advice = "Name the folder where they are stored now with --data-dir (`data_dir` of load)."
        try:
            dataset = make_dataset(self.config, workdir)
        except InputError as error:
            raise InputError(f"The photos of the run cannot be opened: {error} {advice}") from error
        if known not in (None, dataset.fingerprint):
            changes = dataset.changes_since(known)
            raise InputError(
                f"The photos in {self.config.data.dir} are not the photos of the run {workdir}"
                f"{f' ({changes})' if changes else ''}: their fingerprint is "
                f"{dataset.fingerprint[:12]}, the run's {known[:12]}. {advice}"
            )
        return dataset

    def bank(self, split: str) -> Bank:
        """Return features and logits of a split: `train`, `validation` or `test`.

        Raises:
            InputError: If the photos cannot be opened, or there is no such split.
            RunError: If the device runs out of memory.
        """
        if split not in self.dataset.splits:
            raise InputError(
                f"The run has no {split} images; it has {', '.join(self.dataset.splits)} images."
            )
        if split not in self._banks:
            self._banks[split] = read_bank(self, self.dataset, split)
        return self._banks[split]

    def explain(
        self,
        photo: Photo,
        against: str | None = None,
        *,
        exemplars: int = 3,
        window: Window | None = None,
    ) -> Explanation:
        """Explain why a photo is the predicted class and not another one.

        Args:
            photo: The photo: a path, bytes, a PIL image or a uint8 array [H W 3].
            against: Name of the rival class; the most probable one by default.
            exemplars: Training photos to show of each class. Without the run's photos there are
                none, and `no_exemplars` gives the reason.
            window: The part of the photo to use; see `pixels`.

        Raises:
            InputError: If the photo cannot be read, no class has that name, the rival is the
                predicted class, or the run classifies the class token (`model.pool=token`).
            RunError: If the device runs out of memory.
        """
        self.check_maps()
        train, reason = None, "none were asked for"
        if exemplars > 0:
            try:
                train, reason = self.bank("train"), None
            except InputError as error:
                reason = str(error)
        return explain_photo(
            self, photo, against, train, count=exemplars, window=window, no_exemplars=reason
        )

    def compare(self, a: Photo, b: Photo, prior: float = 0.5) -> Comparison:
        """Return the probability that two photos show the same class, and the class of each.

        The order of the photos does not matter.

        Args:
            a: A photo, as `predict` takes them.
            b: Another one.
            prior: Share of pairs of the same class among those that you compare.

        Raises:
            InputError: If a photo cannot be read, or the prior is not between 0 and 1.
            RunError: If the device runs out of memory.
        """
        return self.compare_pairs([(a, b)], prior)[0]

    def compare_pairs(
        self, pairs: Sequence[tuple[Photo, Photo]], prior: float = 0.5
    ) -> list[Comparison]:
        """Return `compare` of many pairs; a photo that is in several of them is read once."""
        check_prior(prior)
        photos, rows = unique_photos(pairs)
        if not photos:
            return []
        description = self.describe(photos)
        return compare_rows(self, lambda: self.pair_calibration, description, rows, prior)

    @cached_property
    def pair_calibration(self) -> PairCalibration:
        """From the score of a pair to the probability of the same class.

        Raises:
            InputError: If there are no held-out images to fit it on, or they cannot be opened.
            RunError: If the device runs out of memory.
        """
        if self.network.published is not None:
            return published_calibration(self.network)
        return read_pair_calibration(self, self.bank, lambda: self.dataset.splits)

    def detector(self, score: str = DEFAULT_SCORE) -> Detector:
        """Return a score for unknown photos, fitted on the run's images.

        Args:
            score: `vim` (the default), `knn`, `max_softmax`, `max_logit` or `energy`.

        Raises:
            InputError: If there is no such score, the run has no held-out images, or its photos
                cannot be opened.
            RunError: If the device runs out of memory.
        """
        return read_detector(score, self, self.bank, lambda: self.dataset.splits)

    def unknown(
        self,
        photos: Sequence[Photo],
        false_alarms: float = FALSE_ALARMS,
        score: str = DEFAULT_SCORE,
        *,
        windows: Sequence[Window] | None = None,
    ) -> Verdict:
        """Return which photos show none of the classes.

        Args:
            photos: The photos.
            false_alarms: The share of photos of known classes that may be called unknown, 0.05 by
                default; the threshold for it is fitted on the held-out images.
            score: `vim` (the default), `knn`, `max_softmax`, `max_logit` or `energy`.
            windows: See `pixels`.

        Raises:
            InputError: As for `detector`, or if the held-out images are too few.
            RunError: If the device runs out of memory.
        """
        detector = self.detector(score)
        return detector.judge(self.describe(photos, windows=windows), false_alarms)

    def audit(self) -> Audit:
        """Search the images of all splits for wrong labels, near-duplicates and outliers.

        Test and held-out images are scored by the network, which was not trained on them; training
        images by a linear discriminant across folds.

        Raises:
            InputError: If the photos cannot be opened.
            RunError: If the device runs out of memory.
        """
        splits = {}
        for split in self.dataset.splits:
            bank = self.bank(split)
            known = None if split == "train" else softmax(bank.logits, self.temperature)
            splits[split] = Images(bank.features, bank.labels, bank.source.file_names, known)
        return audit_images(splits, len(self.class_names))

    def open_world(
        self,
        unknown: str | None = DEFAULT_SCORE,
        false_alarms: float = FALSE_ALARMS,
        *,
        gallery: bool = False,
    ) -> OpenWorld:
        """Return answers other than the classes of the run, for `predict`.

        Args:
            unknown: The score by which photos are called unknown, see `detector`; `None` if none
                are.
            false_alarms: See `unknown`.
            gallery: Whether the classes of the run's gallery are answers.

        Raises:
            InputError: As for `detector`; or if the gallery is empty or of another checkpoint.
            RunError: If the device runs out of memory.
        """
        detector = None if unknown is None else self.detector(unknown)
        if not gallery:
            return OpenWorld(detector, false_alarms)
        added = read_gallery(self)
        if not added.names:
            raise InputError(
                f"The gallery of {self.workdir} is empty. Add a class to it: "
                "python -m apinet_jax gallery RUN add NAME PHOTOS..."
            )
        means = read_class_means(self, self.bank, lambda: self.dataset.splits)
        return OpenWorld(detector, false_alarms, added, means)

    @cached_property
    def _banks(self) -> dict[str, Bank]:
        return {}
