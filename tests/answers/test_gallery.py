"""Classes that are added from a few photos, by hand and in a run."""

import jax
import numpy as np
import pytest
from tiny_runs import draw_photos

import apinet_jax
from apinet_jax.answers.photo_stream import Described
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.answers.unknown.detector import Detector
from apinet_jax.answers.unknown.gallery import (
    ClassMeans,
    Gallery,
    add_photos,
    class_means,
    empty_gallery,
    join_classes,
    read_gallery,
    remove_class,
    write_gallery,
)
from apinet_jax.answers.unknown.open_world import OpenWorld, name_photos
from apinet_jax.inference import Description
from apinet_jax.system.errors import InputError

EAST, NORTH = np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])


def gallery_of(names, labels, features):
    files = tuple(f"/{index}.jpg" for index in range(len(labels)))
    return Gallery("hash", names, np.array(labels), files, np.array(features))


def test_class_means():
    features = np.concatenate([EAST, NORTH, 5 * NORTH])
    half = np.sqrt(0.5)
    found = class_means(features, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(found, [[half, half], [0, 0], [0, 1]])


def test_probabilities_of_both_kinds_of_classes():
    # Cosines to the classes of the run are 1 and 0, to the new one 0. With temperature 1 / log 2
    # their softmax is 2, 1, 1 of 4: the run's classes share 3/4 as their logits say, 1 to 3.
    run = ClassMeans(np.eye(2), temperature=1 / np.log(2), fitted=True)
    new = gallery_of(("new",), [0], [[0.0, 7.0]])
    described = Description(EAST, 2 * np.log([[1.0, 3.0]]))
    logits = join_classes(described, run, new, temperature=2.0)
    np.testing.assert_allclose(np.exp(logits / 2), [[3 / 16, 9 / 16, 4 / 16]])


def test_photos_are_in_one_class():
    gallery = gallery_of(("a", "b"), [0, 1], [[1.0, 0], [0, 1]])
    more = add_photos(gallery, "b", ["/2.jpg"], 2 * EAST)
    assert (more.names, more.labels.tolist()) == (("a", "b"), [0, 1, 1])
    moved = add_photos(more, "c", ["/0.jpg", "/3.jpg"], np.concatenate([EAST, NORTH]))
    assert moved.names == ("b", "c")
    assert moved.files == ("/1.jpg", "/2.jpg", "/0.jpg", "/3.jpg")
    assert moved.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(moved.features, [[0, 1], [4, 0], [2, 0], [0, 3]])
    left = remove_class(moved, "b")
    assert (left.names, left.files) == (("c",), ("/0.jpg", "/3.jpg"))
    assert remove_class(left, "c").names == ()
    with pytest.raises(InputError, match=r"no class 'd'\. Its classes are: c\."):
        remove_class(left, "d")


def test_answers_in_an_open_world():
    names = ("a", "b", "new")
    # Two held-out scores of 19 are below 1: the threshold for 10 % false alarms is 1.
    held_out = np.array([0.0, 1.0] + [5.0] * 17)
    world = OpenWorld(
        Detector("max_logit", held_out),
        0.1,
        gallery_of(("new",), [0], [[0.0, 7.0]]),
        ClassMeans(np.array([[1.0, 0.0], [0.8, -0.6]]), 0.1, fitted=True),
    )
    logits = np.array([[4.0, 0.0], [0.25, 0.0], [0.25, 0.0]])
    photos = Described(logits, np.concatenate([EAST, EAST, NORTH]), (None, None, None))
    known, unknown, new = name_photos(photos, Naming(names), world)
    assert (known.name, known.score, known.reason) == ("a", 4.0, "")
    assert (unknown.name, unknown.level, unknown.labels) == ("unknown", "unknown", ())
    assert unknown.reason == "max_logit 0.25 is below 1"
    assert unknown.best[0][0] == 0
    assert (new.name, new.score) == ("new", 0.25)  # the score knows nothing of it
    assert world.provenance()["unknown"] == {
        **{"score": "max_logit", "value": 1.0, "false_alarms": 0.1, "images": 19}
    }
    assert world.provenance()["gallery"]["classes"] == ["new"]
    assert name_photos(Described(logits[:0], photos.features[:0], ()), Naming(names), world) == []


@pytest.fixture
def own_run(own_workdir):
    return apinet_jax.load(own_workdir, device=jax.devices()[0])


def test_gallery_of_a_run(own_run, tmp_path):
    photos = draw_photos(tmp_path / "new", classes=1, train=3, test=0) / "train/class0"
    files = sorted(map(str, photos.iterdir()))
    with pytest.raises(InputError, match=r"gallery of .*run is empty\. Add a class"):
        own_run.open_world(None, gallery=True)
    gallery = add_photos(empty_gallery(own_run), "new", files, own_run.features(files))
    write_gallery(own_run, gallery)
    found = read_gallery(own_run)
    assert found[:2] + found[3:4] == gallery[:2] + gallery[3:4]
    np.testing.assert_array_equal(found.features, gallery.features)
    world = own_run.open_world(None, gallery=True)
    assert world.means.fitted
    bank = own_run.bank("train")
    np.testing.assert_allclose(
        world.means.means, class_means(bank.features, bank.labels, 4), rtol=1e-6
    )
    again = apinet_jax.load(tmp_path / "run", data_dir="missing").open_world(None, gallery=True)
    np.testing.assert_array_equal(again.means.means, world.means.means)


def test_features_of_another_checkpoint_are_refused(own_run):
    gallery = add_photos(
        empty_gallery(own_run), "new", ["/1.jpg"], own_run.bank("test").features[:1]
    )
    write_gallery(own_run, gallery._replace(checkpoint="0123456789ab"))
    with pytest.raises(
        InputError, match=r"another checkpoint \(0123456789ab\) .* gallery .*run rebuild"
    ):
        read_gallery(own_run)
    path = own_run.checkpoint.parents[1] / "answers/gallery.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"gallery.npz is damaged .* add the classes again"):
        read_gallery(own_run)
