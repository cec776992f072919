"""Rows of predictions for a list of photos."""

from collections.abc import Iterator, Sequence

from apinet_jax.answers.class_names import normal
from apinet_jax.answers.photo_stream import describe_stream
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.answers.prediction.photo_list import NamedPhoto
from apinet_jax.answers.prediction.rows import Row, failed_row, make_row
from apinet_jax.answers.unknown.open_world import CLOSED, OpenWorld, name_photos
from apinet_jax.data.records.walk import escaped
from apinet_jax.inference import Classifier


def predict_rows(
    classifier: Classifier,
    photos: Sequence[NamedPhoto],
    naming: Naming,
    top: int = 5,
    batch_size: int | None = None,
    world: OpenWorld = CLOSED,
) -> Iterator[list[Row]]:
    """Yield the rows of consecutive photos, a batch at a time, in the order of the photos.

    Args:
        classifier: The network.
        photos: The photos.
        naming: How scores become names.
        top: Classes to list of each photo.
        batch_size: Photos on the device at once; as in the run's evaluation by default.
        world: Answers other than the classes of the run.

    Raises:
        RunError: If the device runs out of memory.
    """
    names = naming.class_names
    label_of = {normal(name): label for label, name in enumerate(names)}
    waiting = iter(photos)
    paths = [photo.path for photo in photos]
    for batch in describe_stream(classifier, paths, batch_size, features=not world.is_closed):
        answers = iter(name_photos(batch, naming, world, top))
        rows = []
        for reason in batch.reasons:
            photo = next(waiting)
            shown, label = escaped(photo.path), photo.true_label(label_of)
            if reason is None:
                rows.append(make_row(shown, next(answers), names, label))
            else:
                rows.append(failed_row(shown, reason, None if label is None else names[label]))
        yield rows
