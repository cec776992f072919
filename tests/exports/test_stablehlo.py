"""One file for JAX: the answers of the run, and a loader that needs only jax and numpy."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from apinet_jax.answers.pairs.calibration import PairCalibration
from apinet_jax.commands.export import about_run
from apinet_jax.exports.stablehlo import PLATFORMS, StableHLO, write_stablehlo
from apinet_jax.system.errors import InputError

DOCS = Path(__file__).parents[2] / "docs/export.md"
RANDOM = np.random.default_rng(0)
CALIBRATION = PairCalibration("logistic", (-5.0, 0.0), (-3.0, 3.0), 8, 28)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "tiny.stablehlo"
    write_stablehlo(run.network, CALIBRATION, about_run(run), file)
    return file


def photo(height, width):
    return RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_answers_of_the_run(run, file):
    exported = StableHLO(file)
    assert tuple(exported.about["class_names"]) == run.class_names
    assert exported.about["checkpoint"] == run.provenance.hash
    for size in ((40, 60), (33, 47)):
        one = photo(*size)
        np.testing.assert_array_equal(exported.crops(one), run.pixels([one]))
        expected = run.logits([one])
        np.testing.assert_allclose(exported.classify_one(one), expected, atol=2e-5)
        np.testing.assert_allclose(exported.classify(one[None]), expected, atol=2e-5)


def test_one_file_for_all_platforms(file):
    with np.load(file) as arrays:
        for name in ("classify", "compare", "crop", "classify_crops"):
            assert jax.export.deserialize(bytearray(arrays[name])).platforms == PLATFORMS


def test_loader_of_the_docs(run, file, tmp_path):
    loader = re.search(r"```python\n(.*?birds\.stablehlo.*?)```", DOCS.read_text(), re.DOTALL)[1]
    assert "apinet_jax" not in loader
    one, other = photo(50, 41), photo(36, 52)
    np.save(tmp_path / "one.npy", one)
    np.save(tmp_path / "other.npy", other)
    script = loader.replace("birds.stablehlo", str(file))
    script = f"import numpy\none, other = numpy.load('one.npy'), numpy.load('other.npy')\n{script}"
    script += "\nprint(json.dumps([probabilities.tolist(), same.tolist()]))"
    (tmp_path / "loader.py").write_text(script)
    isolated = [sys.executable, "-I", "loader.py"]
    printed = subprocess.run(isolated, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = printed.stdout.splitlines()
    [probabilities], [same] = eval(lines[-1])
    (expected,) = run.predict([one], top=len(run.class_names))
    best, most = expected[0]
    assert lines[0].split()[0] == best
    assert max(probabilities) == pytest.approx(most, abs=1e-5)
    (expected,) = CALIBRATION.probability(np.array([run.compare(one, other).score]))
    assert same == pytest.approx(expected, abs=1e-5)


def test_uncalibrated_runs_do_not_compare(uncalibrated_workdir, tmp_path):
    import apinet_jax

    run = apinet_jax.load(uncalibrated_workdir, device=jax.devices()[0])
    write_stablehlo(run.network, None, about_run(run), tmp_path / "x.stablehlo")
    with np.load(tmp_path / "x.stablehlo") as arrays:
        assert "compare" not in arrays


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x.stablehlo").write_bytes(content)
    with pytest.raises(InputError, match="is not a StableHLO file of this project"):
        StableHLO(tmp_path / "x.stablehlo")
