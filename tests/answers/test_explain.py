"""Explanations: exact sums, rivals by name, and the nearest training photos of both classes."""

import numpy as np
import pytest

import apinet_jax
from apinet_jax.system.errors import InputError


@pytest.fixture(scope="module")
def photo(photos):
    return photos / "test/class0/0.png"


@pytest.fixture(params=["run", "softmax_run"])
def either(request):
    return request.getfixturevalue(request.param)


def test_sums_to_the_difference(either, photo):
    found = either.explain(photo)
    logits = either.logits([photo])[0]
    first, second = np.argsort(-logits)[:2]
    assert (found.predicted, found.against) == tuple(
        either.class_names[label] for label in (first, second)
    )
    assert found.difference == pytest.approx(logits[first] - logits[second], abs=1e-6)
    total = found.contrast.sum() + found.bias
    assert total == pytest.approx(found.difference, abs=1e-4 * float(np.abs(logits).max()))
    best = either.predict([photo], top=2)[0]
    assert [found.probability, found.rival_probability] == pytest.approx([p for _, p in best])


def test_mirror_image_is_averaged(workdir, photo):
    run = apinet_jax.load(workdir)
    run.config.eval.flip = True
    plain = apinet_jax.load(workdir).explain(photo, exemplars=0)
    found = run.explain(photo, plain.against, exemplars=0)
    logits = dict(zip(run.class_names, run.logits([photo])[0], strict=True))
    difference = logits[found.predicted] - logits[found.against]
    assert found.contrast.sum() + found.bias == pytest.approx(difference, abs=1e-4)
    assert not np.allclose(found.contrast, plain.contrast)
    mirrored = run.explain(plain.pixels[:, ::-1], plain.against, exemplars=0)
    again = run.explain(plain.pixels, plain.against, exemplars=0)
    np.testing.assert_allclose(mirrored.contrast[:, ::-1], again.contrast, atol=1e-5)


def test_exemplars_are_the_nearest(either, photo):
    found = either.explain(photo, exemplars=2)
    names = [exemplar.class_name for exemplar in found.exemplars]
    assert names == [found.predicted] * 2 + [found.against] * 2
    bank, feature = either.bank("train"), either.features([photo])[0]
    cosine = bank.features @ feature
    cosine /= np.linalg.norm(bank.features, axis=1) * np.linalg.norm(feature)
    cosine[bank.labels != either.class_names.index(found.against)] = -1
    best = int(cosine.argmax())
    assert found.exemplars[2].file_name == bank.source.file_names[best]
    assert found.exemplars[2].similarity == pytest.approx(cosine[best], abs=1e-5)
    assert found.exemplars[2].similarity >= found.exemplars[3].similarity


def test_gate_maps_complete_the_pair_logits(run, softmax_run, photo):
    found = run.explain(photo, exemplars=1)
    exemplar, bank = found.exemplars[1], run.bank("train")
    partner = bank.features[[bank.source.file_names.index(exemplar.file_name)]]
    feature = run.features([photo])
    there, back = run.interact(feature, partner), run.interact(partner, feature)
    own, theirs = ((a[0] + b[0]) / 2 for a, b in ((there[0], back[2]), (there[2], back[0])))
    first, rival = (run.class_names.index(name) for name in (found.predicted, found.against))
    difference = own[first] - own[rival]
    total = 1.5 * found.contrast.sum() + exemplar.gates.photo.sum() + found.bias
    assert total == pytest.approx(float(difference), abs=1e-4)
    x = (partner @ run.kernel)[0]
    expected = theirs[first] - theirs[rival] - found.bias
    expected -= 1.5 * (x[first] - x[rival])
    assert exemplar.gates.exemplar.sum() == pytest.approx(float(expected), abs=1e-4)
    assert softmax_run.explain(photo, exemplars=1).exemplars[0].gates is None


def test_missing_photos_are_a_reason(workdir, photo, tmp_path):
    found = apinet_jax.load(workdir, data_dir=str(tmp_path / "moved")).explain(photo)
    assert found.exemplars == ()
    assert "cannot be opened" in found.no_exemplars


def test_rivals_by_name(run, photo):
    found = run.explain(photo, exemplars=0)
    other = next(name for name in run.class_names if name not in (found.predicted, found.against))
    assert run.explain(photo, other, exemplars=0).against == other
    with pytest.raises(InputError, match="Nearest to 'clas2'"):
        run.explain(photo, "clas2", exemplars=0)
    with pytest.raises(InputError, match=r"predicted to be class\d itself"):
        run.explain(photo, found.predicted, exemplars=0)
