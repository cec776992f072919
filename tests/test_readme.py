"""The README's Python examples run as they are written."""

import re
from pathlib import Path

import pytest
from tiny_runs import draw_photos, save_trunk

from apinet_jax.models.weights.catalogue import PUBLISHED

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    draw_photos(folder / "photos", train=8, test=2)
    save_trunk(folder / "weights.safetensors")
    return folder


@pytest.mark.slow
def test_examples_of_the_readme_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    small = PUBLISHED["tf_efficientnet_lite0"]._replace(name="weights.safetensors")
    monkeypatch.setitem(PUBLISHED, "tf_efficientnet_lite0", small)  # fetched on a CPU
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        exec(compile(example, str(README), "exec"), {})


def test_every_public_name_has_an_example():
    import apinet_jax

    shown = set(re.findall(r"\w+", "\n".join(EXAMPLES)))
    assert set(apinet_jax.__all__) - {"__version__"} <= shown
