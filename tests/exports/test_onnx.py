"""One graph for ONNX Runtime: photos of any size, and the answers of the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apinet_jax.commands.export import about_run
from apinet_jax.exports.onnx import ONNX, fold_constants, write_onnx
from apinet_jax.system.errors import InputError

pytest.importorskip("jax2onnx", reason="pip install --no-deps -r requirements-onnx.txt")


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "tiny.onnx"
    write_onnx(run.network, about_run(run), file)
    return file


def test_answers_of_the_run(run, file):
    exported, random = ONNX(file), np.random.default_rng(0)
    assert tuple(exported.about["class_names"]) == run.class_names
    for shape in ((1, 40, 60, 3), (2, 33, 47, 3)):
        photos = random.integers(0, 256, shape).astype(np.uint8)
        np.testing.assert_array_equal(exported.crops(photos[0]), run.pixels([photos[0]]))
        np.testing.assert_allclose(exported.classify(photos), run.logits(list(photos)), atol=2e-5)


def test_constants_are_computed_beforehand():
    weights = jnp.arange(12.0).reshape(3, 4)

    def function(x):
        return (x @ jnp.cos(weights) + jnp.ones((1, 4)) * 2,)

    b = jax.export.symbolic_shape("b")[0]
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((b, 3), jnp.float32))
    folded = fold_constants(traced)
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(folded(x)[0], function(x)[0], rtol=1e-6)
    left = str(jax.make_jaxpr(folded)(x))
    assert "cos" in str(traced)
    assert "cos" not in left


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(InputError, match="is not an ONNX file of this project"):
        ONNX(tmp_path / "x.onnx")


def test_missing_packages_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"pip install --no-deps jax2onnx==0\.17\.1 onnx onnx-ir"):
        write_onnx(run.network, {}, tmp_path / "x.onnx")
