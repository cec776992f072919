"""The public API: training returns its result, and a run loads as a classifier."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_archives import make_small, put_files
from tiny_runs import config_for, draw_photos, rows_of

import apinet_jax
from apinet_jax import evaluation
from apinet_jax.answers.photo_stream import describe_stream
from apinet_jax.commands.export import about_run, check
from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.decoding import decode
from apinet_jax.data.official.aircraft import Aircraft
from apinet_jax.exports.stablehlo import write_stablehlo
from apinet_jax.system.errors import InputError, RunError

TINY = {"data__workers": 0, "model__trunk": "test_tiny", "optim__epochs": 2.0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = draw_photos(tmp_path_factory.mktemp("photos"), train=12, test=4)
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation: turned by a quarter
    with Image.open(folder / "test/class0/0.png") as image:
        image.save(folder / "test/class0/0.jpg", exif=exif)
    (folder / "test/class0/0.png").unlink()
    return folder


@pytest.fixture(scope="module")
def result(photos, tmp_path_factory):
    config = config_for(photos, **TINY, eval__flip=True)
    workdir = tmp_path_factory.mktemp("api") / "run"
    return apinet_jax.train(config, workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def classifier(result):
    return apinet_jax.load(result.workdir)


def evaluated_logits(monkeypatch, *arguments):
    """The logits behind an evaluation's figures."""
    found, evaluate_split = [], evaluation.evaluate_split

    def keep(*args, **kwargs):
        found.append(evaluate_split(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(evaluation, "evaluate_split", keep)
    apinet_jax.evaluate(*arguments, devices=jax.devices()[:1])
    return found[0].logits


def test_train_returns_its_result(result):
    report = json.loads((result.workdir / "results.json").read_text())
    assert result.split == "test"
    assert result.summary.top1 == report["test"]["best"]["top1"]
    assert result.temperature == report["calibration"]["temperature"]
    assert result.checkpoint == result.workdir / "best" / str(report["steps"]["best"])
    assert result.history == rows_of(result.workdir)
    assert json.loads((result.workdir / "run.json").read_text())["devices"] == 1


def test_train_again_returns_the_same(result, photos):
    config = config_for(photos, **TINY, eval__flip=True)
    again = apinet_jax.train(config, result.workdir, devices=jax.devices()[:1])
    assert again == result


def test_logits_are_those_of_evaluation(result, photos, classifier, monkeypatch):
    test_photos = sorted((photos / "test").rglob("*.*"))
    ours = classifier.logits(test_photos)
    theirs = evaluated_logits(monkeypatch, result.workdir)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_reduced_photos_are_those_of_evaluation(tmp_path, monkeypatch):
    photos = draw_photos(tmp_path / "photos", train=12, test=4, size=192, suffix="jpg")
    config = config_for(photos, **TINY, data__decode="scaled")
    workdir = apinet_jax.train(config, tmp_path / "run", devices=jax.devices()[:1]).workdir
    classifier = apinet_jax.load(workdir)
    names = sorted((photos / "test").rglob("*.jpg"))
    theirs = evaluated_logits(monkeypatch, workdir)
    np.testing.assert_allclose(classifier.logits(names), theirs, rtol=1e-5, atol=1e-6)
    streamed = [
        batch.logits for batch in describe_stream(classifier, [str(name) for name in names])
    ]
    np.testing.assert_allclose(np.concatenate(streamed), theirs, rtol=1e-5, atol=1e-6)
    of_full_size = classifier.logits([decode(name.read_bytes()) for name in names])
    assert np.abs(of_full_size - theirs).max() > 1e-4
    write_stablehlo(classifier.network, None, about_run(classifier), tmp_path / "x.stablehlo")
    check(classifier, tmp_path / "x.stablehlo")


def test_windows_are_those_of_evaluation(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Aircraft, classes=2, train=4, test=3)
    names = [f"000000{index}" for index in range(7)]
    rng, images = np.random.default_rng(0), {}
    for name in names:
        stream = BytesIO()
        Image.fromarray(rng.integers(0, 256, (60, 48, 3), np.uint8)).save(stream, "JPEG")
        images[f"data/images/{name}.jpg"] = stream.getvalue()
    variants = [f"{name} {'AB'[index % 2]}" for index, name in enumerate(names)]
    lists = {
        "data/variants.txt": ["A", "B"],
        "data/images_variant_trainval.txt": variants[:4],
        "data/images_variant_test.txt": variants[4:],
        "data/images_box.txt": [f"{name} 9 5 40 30" for name in names],
    }
    put_files(tmp_path / "manual/fgvc-aircraft-2013b", images | lists)
    manual = tmp_path / "manual"
    config = config_for("", **TINY, data__name="aircraft", data__manual_dir=str(manual))
    config.update_from_flattened_dict(
        {"data.dir": None, "data.val_fraction": 0.0, "batch.classes": 2}
    )
    run = apinet_jax.train(config, tmp_path / "run", devices=jax.devices()[:1]).workdir
    test = open_dataset("aircraft", manual_dir=manual).test
    windows = [test.window(row) for row in test.rows.tolist()]
    assert windows == [(0, 0, 48, 40)] * 3
    encoded = [test.read(index) for index in range(3)]
    classifier = apinet_jax.load(run)
    theirs = evaluated_logits(monkeypatch, run)
    np.testing.assert_allclose(
        classifier.logits(encoded, windows=windows), theirs, rtol=1e-5, atol=1e-6
    )
    assert np.abs(classifier.logits(encoded) - theirs).max() > 1e-3


def test_photos_may_be_paths_bytes_images_and_arrays(photos, classifier):
    path = photos / "test/class1/0.png"
    image = decode(path.read_bytes())
    given = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    pixels = classifier.pixels(given)
    assert pixels.shape == (5, 32, 32, 3)
    assert (pixels == pixels[0]).all()


def test_orientation_of_a_pil_image_is_applied(photos, classifier):
    path = photos / "test/class0/0.jpg"
    with Image.open(path) as image:
        from_path, from_image = classifier.pixels([path, image])
    np.testing.assert_array_equal(from_path, from_image)


def test_predictions_are_calibrated(photos, classifier, result):
    path = photos / "test/class1/0.png"
    assert classifier.temperature == result.temperature
    ((logits,), (answer,)) = classifier.logits([path]), classifier.predict([path], top=9)
    expected = np.exp(logits / result.temperature)
    expected /= expected.sum()
    assert [name for name, _ in answer] == [f"class{k}" for k in np.argsort(-expected)]
    np.testing.assert_allclose([p for _, p in answer], np.sort(expected)[::-1], rtol=1e-5)
    assert classifier.predict([path], top=2) == [answer[:2]]


def test_features_are_the_pooled_map(photos, classifier):
    paths = sorted((photos / "test").rglob("*.png"))[:3]
    features, maps = classifier.features(paths), classifier.feature_map(paths)
    assert features.shape == (3, maps.shape[-1])
    assert maps.ndim == 4
    np.testing.assert_allclose(maps.mean((1, 2)), features, rtol=1e-5, atol=1e-6)


def test_any_number_of_photos_gives_the_same_logits(photos, classifier):
    paths = sorted((photos / "test").rglob("*.*"))[:5]
    together = classifier.logits(paths)
    for index, path in enumerate(paths):
        ours = classifier.logits([path])[0]
        np.testing.assert_allclose(ours, together[index], rtol=1e-5, atol=1e-6)


def test_checkpoint_may_be_a_step_or_a_folder(result):
    last = apinet_jax.load(result.workdir, 8)
    assert last.step == 8
    assert apinet_jax.load(result.workdir / "checkpoints/8").step == 8
    best = int(result.checkpoint.name)
    assert apinet_jax.load(result.workdir).step == best
    assert (last.temperature == result.temperature) == (best == 8)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("none.jpg", "The photo none.jpg cannot be read: No such file or directory"),
        (b"GIF89a", "The photo number 0 cannot be read: not a JPEG, PNG or WebP"),
        (np.zeros((4, 4)), r"The photo number 0 cannot be read: an array of float64 \(4, 4\)"),
    ],
    ids=["missing", "unreadable", "floats"],
)
def test_photo_that_cannot_be_read_is_named(classifier, photo, message):
    with pytest.raises(InputError, match=message):
        classifier.predict([photo])


def test_window_outside_of_the_photo_is_refused(photos, classifier):
    path = photos / "test/class1/0.png"
    with pytest.raises(InputError, match=r"window .* exceeds 40 x 40 pixels"):
        classifier.predict([path], windows=[(0, 0, 41, 40)])
    with pytest.raises(InputError, match="0 windows for 1 photos"):
        classifier.predict([path], windows=[])


def test_no_photos_and_a_single_photo_are_refused(photos, classifier):
    with pytest.raises(InputError, match="the sequence is empty"):
        classifier.predict([])
    path = photos / "test/class1/0.png"
    image = Image.new("RGB", (4, 4))
    for photo in (path, str(path), path.read_bytes(), image, np.asarray(image)):
        with pytest.raises(TypeError):
            classifier.predict(photo)


def test_evaluation_of_other_photos_leaves_the_runs_own(result, photos, tmp_path):
    apinet_jax.evaluate(result.workdir)
    step = int(result.checkpoint.name)
    own = result.workdir / f"evaluation-{step}.json"
    before = own.read_bytes()
    assert json.loads(before)["data_dir"] == str(photos)
    other = draw_photos(tmp_path / "other", train=3, test=2, size=50)
    apinet_jax.evaluate(result.workdir, config=config_for(other, **TINY))
    assert own.read_bytes() == before
    (new,) = {*result.workdir.glob(f"evaluation-{step}-*.json")}
    assert json.loads(new.read_text())["images"] == 8


def test_other_photos_without_splits_are_evaluated_completely(result, tmp_path):
    other = draw_photos(tmp_path / "drawn", train=5, test=1, size=50) / "train"
    summary = apinet_jax.evaluate(result.workdir, config=config_for(other, **TINY))
    assert summary.images == 20


def test_other_classes_are_named(result, tmp_path):
    other = draw_photos(tmp_path / "other", classes=5, train=3, test=1)
    (other / "train/class0").rename(other / "train/new")
    (other / "test/class0").rename(other / "test/new")
    message = "missing in the data: 'class0'; unknown to the run: 'class4', 'new'"
    with pytest.raises(InputError, match=message):
        apinet_jax.evaluate(result.workdir, config=config_for(other, **TINY))


def test_read_only_workdir_is_evaluated(result, monkeypatch, capsys):
    def refuse(path, text):
        raise RunError(f"Could not write {path}: Read-only file system.")

    monkeypatch.setattr(evaluation, "write_atomically", refuse)
    assert apinet_jax.evaluate(result.workdir).top1 == result.summary.top1
    assert "WARNING: Could not write" in capsys.readouterr().err


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, apinet_jax; apinet_jax.__version__; "
        "print(sorted({'jax', 'numpy', 'flax', 'orbax', 'PIL'} & set(sys.modules)))"
    )
    root = Path(apinet_jax.__file__).parents[1]
    output = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert output == "[]\n"


def test_every_public_name_exists_and_is_documented():
    for name in apinet_jax.__all__:
        assert getattr(apinet_jax, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        apinet_jax.nothing  # noqa: B018
