"""Scores for unknown photos, by hand, and the threshold of a run."""

import jax
import numpy as np
import pytest

import apinet_jax
from apinet_jax.answers.unknown import detector as detector_module
from apinet_jax.answers.unknown.detector import Detector, read_detector
from apinet_jax.answers.unknown.scores import (
    SCORES,
    energy,
    fit_residual,
    fit_threshold,
    max_logit,
    max_softmax,
    nearness,
    vim,
)
from apinet_jax.inference import Description
from apinet_jax.system.errors import InputError

LOGITS = np.log(np.array([[1.0, 3.0, 4.0], [2.0, 2.0, 1.0]]))


def test_scores_of_logits():
    np.testing.assert_allclose(max_softmax(LOGITS), [0.5, 0.4])
    np.testing.assert_allclose(max_logit(LOGITS), np.log([4, 2]))
    np.testing.assert_allclose(energy(LOGITS), np.log([8, 5]))


def test_nearness():
    training = np.array([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    # Directions east, north and west; a feature to the north-east is 45 degrees from the first two.
    near = 2 * np.sin(np.pi / 8)
    features = np.array([[3.0, 3.0], [0.0, 1.0]])
    np.testing.assert_allclose(nearness(features, training, k=1), [-near, 0], atol=1e-7)
    np.testing.assert_allclose(nearness(features, training, k=2), [-near, -np.sqrt(2)])
    far = 2 * np.sin(3 * np.pi / 8)
    np.testing.assert_allclose(nearness(features, training, k=9), [-far, -np.sqrt(2)])


def test_vim():
    # Training features vary along the first channel only, around the origin (0, 1): logits are
    # zero there. Their residual is 1 in the second channel.
    kernel, bias = np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([-1.0, -1.0])
    features = np.array([[-4.0, 2.0], [4.0, 2.0], [-4.0, 0.0], [4.0, 0.0]])
    logits = features @ kernel + bias
    np.testing.assert_allclose(logits, [[-3, 5], [5, -3], [-5, 3], [3, -5]])
    residual = fit_residual(features, logits, kernel, bias, dimension=1)
    np.testing.assert_allclose(residual.origin, [0, 1], atol=1e-12)
    np.testing.assert_allclose(np.abs(residual.basis), [[0], [1]], atol=1e-12)
    assert residual.scale == pytest.approx(4)  # mean of the largest logits over that of residuals
    new = np.array([[0.0, 3.0]])
    assert residual.virtual_logit(new) == pytest.approx([8])
    assert vim(new, np.zeros((1, 2)), residual) == pytest.approx([np.log(2) - 8])


def test_residual_without_a_space_outside():
    residual = fit_residual(np.eye(2), np.ones((2, 2)), np.eye(2), np.zeros(2), dimension=2)
    np.testing.assert_array_equal(residual.virtual_logit(np.eye(2)), [0, 0])


def test_threshold_is_an_order_statistic():
    held_out = np.random.default_rng(0).permutation(np.arange(99.0))
    found = fit_threshold(held_out, 0.05)
    assert found == (4.0, 0.05, 99)  # the fifth lowest: four of 99 are below it
    assert fit_threshold(np.arange(19.0), 0.05).value == 0
    with pytest.raises(InputError, match=r"0\.05 false alarms needs at least 19 .* has 18"):
        fit_threshold(np.arange(18.0), 0.05)
    with pytest.raises(InputError, match="at least 99 held-out"):
        fit_threshold(held_out[:50], 0.01)
    with pytest.raises(InputError, match="not finite: the run has diverged"):
        fit_threshold(np.append(held_out, np.nan))
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(InputError, match="not between 0 and 1"):
            fit_threshold(held_out, share)


def test_false_alarms_on_new_photos():
    random = np.random.default_rng(0)
    shares = [
        (random.normal(size=500) < fit_threshold(random.normal(size=99), 0.1).value).mean()
        for _ in range(300)
    ]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.01)


def test_verdict():
    detector = Detector("max_logit", held_out=np.arange(19.0))
    described = Description(np.zeros((3, 2), np.float32), np.array([[-1.0, 0], [2, 1], [-2, -3]]))
    verdict = detector.judge(described, 0.05)
    assert verdict.unknown.tolist() == [False, False, True]
    np.testing.assert_array_equal(verdict.scores, [0, 2, -2])


@pytest.mark.parametrize("score", SCORES)
def test_detector_of_a_run_is_fitted_once(run, workdir, photos, score, monkeypatch):
    files = sorted((photos / "test").rglob("*.png"))
    verdict = run.unknown(files, score=score, false_alarms=0.1)
    assert verdict.threshold.images == len(run.dataset.validation)
    with monkeypatch.context() as patch:
        patch.setattr(detector_module, "fit_detector", lambda *_: pytest.fail("fitted again"))
        # Neither does it need the photos of the run.
        again = apinet_jax.load(workdir, device=jax.devices()[0], data_dir="missing")
        found = again.unknown(files, score=score, false_alarms=0.1)
    np.testing.assert_allclose(found.scores, verdict.scores, rtol=1e-6)
    assert found.threshold == verdict.threshold


def test_errors(run, softmax_run, photos):
    with pytest.raises(InputError, match=r"no score 'entropy'\. Choose one of vim"):
        run.unknown([photos / "test/class0/0.png"], score="entropy")
    with pytest.raises(InputError, match=r"no held-out images, .* fitted on nothing else"):
        read_detector("vim", softmax_run, softmax_run.bank, lambda: {"train", "test"})
