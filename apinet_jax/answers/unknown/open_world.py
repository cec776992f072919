"""Answers beyond the classes of a run: unknown photos, and the classes of its gallery."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from apinet_jax.answers.photo_stream import Described
from apinet_jax.answers.prediction.naming import Answer, Naming, name_rows
from apinet_jax.answers.prediction.taxonomy import UNKNOWN
from apinet_jax.answers.unknown.detector import Detector
from apinet_jax.answers.unknown.gallery import ClassMeans, Gallery, join_classes
from apinet_jax.answers.unknown.scores import FALSE_ALARMS, fit_threshold
from apinet_jax.inference import Description


class OpenWorld(NamedTuple):
    """Answers other than the classes of the run; none by default.

    Attributes:
        detector: The score by which photos are called unknown.
        false_alarms: Share of photos of known classes that may be.
        gallery: Classes that were added.
        means: Class means of the run, which a gallery needs.
    """

    detector: Detector | None = None
    false_alarms: float = FALSE_ALARMS
    gallery: Gallery | None = None
    means: ClassMeans | None = None

    @property
    def is_closed(self) -> bool:
        """Whether only classes of the run are answers."""
        return self.detector is None and self.gallery is None

    def provenance(self) -> dict[str, Any]:
        """Return the settings that change answers.

        Raises:
            InputError: If there are too few held-out images for the share of false alarms.
        """
        unknown = gallery = None
        if self.detector is not None:
            threshold = fit_threshold(self.detector.held_out, self.false_alarms)
            unknown = {"score": self.detector.name, **threshold._asdict()}
        if self.gallery is not None:
            content = hashlib.sha256(
                self.gallery.features.tobytes() + self.gallery.labels.tobytes()
            )
            gallery = {"classes": list(self.gallery.names), "hash": content.hexdigest()[:12]}
        return {"unknown": unknown, "gallery": gallery}


CLOSED = OpenWorld()


def name_photos(photos: Described, naming: Naming, world: OpenWorld, top: int = 5) -> list[Answer]:
    """Return the answer for each readable photo, from its features and logits.

    A photo whose best class is of the gallery is not called unknown: the scores only know the
    classes of the run.

    Args:
        photos: Photos after the network; an open world needs their features.
        naming: How scores become names; the classes of the gallery follow the run's.
        world: Answers other than the classes of the run.
        top: Classes to list of each.
    """
    if world.is_closed:
        return name_rows(photos.logits, naming, top)
    described = Description(photos.features, photos.logits)
    logits, own = photos.logits, photos.logits.shape[1]
    if world.gallery is not None:
        logits = join_classes(described, world.means, world.gallery, naming.temperature)
    answers = name_rows(logits, naming, top)
    if world.detector is None:
        return answers
    scores, unknown, threshold = world.detector.judge(described, world.false_alarms)
    name, least = world.detector.name, threshold.value

    def judged(answer: Answer, score: np.floating, is_unknown: np.bool_) -> Answer:
        answer = answer._replace(score=float(score))
        if not is_unknown or answer.best[0][0] >= own:
            return answer
        reason = f"{name} {score:.4g} is below {least:.4g}"
        return answer._replace(
            name=UNKNOWN, level=UNKNOWN, probability=None, reason=reason, labels=()
        )

    return [judged(*each) for each in zip(answers, scores, unknown, strict=True)]
