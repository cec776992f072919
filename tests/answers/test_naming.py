"""From scores to names, computed by hand."""

import numpy as np
import pytest

from apinet_jax.answers.class_names import find_classes, names_in
from apinet_jax.answers.prediction.naming import Naming, name_rows, probabilities
from apinet_jax.system.errors import InputError

NAMES = ("Wren", "Robin", "Mallard")
LOGITS = np.log(np.array([[1.0, 3.0, 4.0]]))  # probabilities 1/8, 3/8, 4/8


def test_best_class():
    (answer,) = name_rows(LOGITS, Naming(NAMES), top=2)
    assert answer[:2] == ("Mallard", "class")
    assert answer.probability == pytest.approx(0.5)
    assert [label for label, _ in answer.best] == [2, 1]
    assert answer.labels == (2,)


def test_temperature():
    # The square roots 1, 1.732, 2 sum to 4.732.
    found = probabilities(LOGITS, Naming(NAMES, temperature=2.0))
    np.testing.assert_allclose(found, [[0.211325, 0.366025, 0.422650]], atol=1e-6)


def test_only_some_classes():
    naming = Naming(NAMES, allowed=(0, 1))
    np.testing.assert_allclose(probabilities(LOGITS, naming), [[0.25, 0.75, 0]])
    (answer,) = name_rows(LOGITS, naming, top=5)
    assert answer.name == "Robin"
    assert len(answer.best) == 2


def test_unknown_below_the_confidence():
    (answer,) = name_rows(LOGITS, Naming(NAMES, confidence=0.6))
    assert answer[:2] == ("unknown", "unknown")
    assert answer.labels == ()
    assert answer.best[0][0] == 2


def test_no_photo():
    assert name_rows(np.zeros((0, 3)), Naming(NAMES)) == []


def test_class_names():
    assert find_classes(["Mallard", "Wren"], NAMES) == [2, 0]
    assert find_classes(["Zu\u0308rich"], ["Z\u00fcrich"]) == [0]
    with pytest.raises(InputError, match=r"no class 'robbin' .* Nearest to 'robbin': 'Robin'"):
        find_classes(["Wren", "robbin"], NAMES)


def test_lists_of_names(tmp_path):
    assert names_in('Wren, "Robin, red" ,, Mallard') == ["Wren", "Robin, red", "Mallard"]
    assert names_in('Wren\nRobin, "Ma\nllard"') == ["Wren", "Robin", "Ma\nllard"]
    (tmp_path / "names.txt").write_bytes("\ufeffWren\r\n\r\n Robin, red\n".encode())
    assert names_in(str(tmp_path / "names.txt")) == ["Wren", "Robin, red"]
    (tmp_path / "names.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match="is not UTF-8"):
        names_in(str(tmp_path / "names.txt"))
    with pytest.raises(InputError, match="names no class"):
        names_in(" , ")
    with pytest.raises(InputError, match="is not a list of names: field larger"):
        names_in("a" * 200_000)
