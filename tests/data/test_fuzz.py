"""No parser of untrusted files does anything with a damaged one but read it or refuse it.

`pytest tests/test_fuzz.py` tries 300 inputs of each, with the same damage every time;
`APINET_FUZZ=20000 pytest tests/test_fuzz.py -m slow -s` as many others as it says.
"""

import hashlib
import logging
import os
import resource
import sys
import time
import warnings

import fuzz_targets
import pytest
from fuzz_inputs import damaged
from hypothesis import HealthCheck, Phase, given, settings

from apinet_jax.data import decoding

FEW = 300
MANY = int(os.environ.get("APINET_FUZZ", "20000"))
# Seconds: a parser that takes longer over a small file hangs.
PATIENCE = 20
# Bytes that a parser may take for files of some kilobytes, beyond what its libraries take.
ROOM = 1 << 30


def everything(folder):
    """What lies in a folder, at any depth."""
    return {
        path.relative_to(folder): path.is_file() and hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
    }


def peak():
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fuzz(make, tmp_path, monkeypatch, inputs, random):
    """Lets a parser read as many damaged files, and looks at what it leaves behind."""
    inside = tmp_path / "inside"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.jpg").write_bytes(fuzz_targets.SECRET)
    inside.mkdir()
    monkeypatch.chdir(inside)
    # Beyond this an image is refused before it is decoded; less of it makes more tries.
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1 << 20)
    target = make(inside)
    target.put(inside)
    target.read()  # what is not damaged is read
    sound = {seed.name: (inside / seed.name).read_bytes() for seed in target.seeds}
    before = everything(tmp_path)
    tried, reasons = 0, []

    @settings(
        max_examples=inputs,
        derandomize=not random,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(target.seeds))
    def try_one(file):
        nonlocal tried
        name, content = file
        tried += 1
        (inside / name).write_bytes(content)
        start = time.monotonic()
        try:
            target.read()
        except target.refusals as error:
            reasons.append(str(error))
        finally:
            (inside / name).write_bytes(sound[name])
        assert time.monotonic() - start < PATIENCE

    memory = peak()
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # orbax tells much
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's of damaged EXIF; no reason to refuse anything
        start = time.monotonic()
        try_one()
    seconds = time.monotonic() - start
    print(f"{make.__name__}: {tried} inputs, {len(reasons)} refused, {seconds:.0f} s")
    assert all(reasons)
    assert peak() - memory < ROOM
    assert everything(tmp_path) == before
    assert tried >= inputs
    # Neither is everything refused, nor nothing: the damage reaches the parser and the parser it.
    assert 0 < len(reasons) < tried


@pytest.mark.parametrize("make", fuzz_targets.TARGETS, ids=lambda make: make.__name__)
def test_few_damaged_files(make, tmp_path, monkeypatch):
    fuzz(make, tmp_path, monkeypatch, FEW, random=False)


@pytest.mark.slow
@pytest.mark.parametrize("make", fuzz_targets.TARGETS, ids=lambda make: make.__name__)
def test_many_damaged_files(make, tmp_path, monkeypatch):
    fuzz(make, tmp_path, monkeypatch, MANY, random=True)
