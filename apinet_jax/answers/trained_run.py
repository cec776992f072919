"""A trained run with its photos: the classifier that also compares, explains and audits."""

from functools import cached_property

import jax

from apinet_jax.answers.bank import Bank, read_bank
from apinet_jax.answers.explain import Explanation, explain_photo
from apinet_jax.data.photos import Photo, Window
from apinet_jax.data.source import Dataset
from apinet_jax.inference import Classifier
from apinet_jax.setup.build import make_dataset
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import AnyPath
from apinet_jax.workdir.record import recorded_fingerprint


def load(
    run: AnyPath | str,
    checkpoint: str | int | None = None,
    *,
    device: jax.Device | None = None,
    data_dir: str | None = None,
) -> "TrainedRun":
    """Load a trained run as a classifier.

    Args:
        run: A workdir, the folder of one checkpoint, or either in a bucket.
        checkpoint: `last`, `best` or a step. By default the one that the run chose: the best on
            held-out images where there were any, else the last.
        device: Where it computes; JAX's default device if not given.
        data_dir: Where the run's photos are stored now, if they were moved.

    Raises:
        InputError: If there is no such checkpoint, or it cannot be read.

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
        workdir = self.checkpoint.parents[1]
        known = recorded_fingerprint(workdir)
        advice = "Name the folder where they are stored now with --data-dir (`data_dir` of load)."
        try:
            dataset = make_dataset(self.config, workdir)
        except InputError as error:
            raise InputError(f"The photos of the run cannot be opened: {error} {advice}") from error
        if known not in (None, dataset.fingerprint):
            changes = dataset.changes_since(known)
            raise InputError(
                f"The photos in {self.config.data.dir} are not those of the run {workdir}"
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
            InputError: If the photo cannot be read, no class has that name, or the rival is the
                predicted class.
            RunError: If the device runs out of memory.
        """
        train, reason = None, "none were asked for"
        if exemplars > 0:
            try:
                train, reason = self.bank("train"), None
            except InputError as error:
                reason = str(error)
        return explain_photo(
            self, photo, against, train, count=exemplars, window=window, no_exemplars=reason
        )

    @cached_property
    def _banks(self) -> dict[str, Bank]:
        return {}
