"""Parsers of untrusted files read a damaged one or refuse it, and do nothing else.

`pytest tests/data/test_fuzz.py` tries 300 inputs of each, with the same damage every time;
`APINET_FUZZ=20000 pytest tests/data/test_fuzz.py -m slow -s` tries that many random ones.
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
MANY = int(os.environ.get("APINET_FUZZ", "2000"))
# Seconds after which a parser of a small file counts as hanging.
PATIENCE = 20
# Bytes that a parser may allocate for files of some kilobytes, besides its libraries.
ROOM = 1 << 30


def everything(folder):
    """Return all paths below a folder, with the digests of files."""
    return {
        path.relative_to(folder): path.is_file() and hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
    }


def peak():
    """Return the peak memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fuzz(make, tmp_path, monkeypatch, inputs, random):
    """Let a parser read many damaged files, and checks what it leaves behind."""
    inside = tmp_path / "inside"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.jpg").write_bytes(fuzz_targets.SECRET)
    inside.mkdir()
    monkeypatch.chdir(inside)
    # Larger images are refused before they are decoded; a low limit saves time.
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1 << 20)
    target = make(inside)
    target.put(inside)
    target.read()  # undamaged files are read
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
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # orbax logs much
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damaged EXIF
        start = time.monotonic()
        try_one()
    seconds = time.monotonic() - start
    print(f"{make.__name__}: {tried} inputs, {len(reasons)} refused, {seconds:.0f} s")
    assert all(reasons)
    assert peak() - memory < ROOM
    assert everything(tmp_path) == before
    assert tried >= inputs
    # Some files are refused and some are read, so the damage reaches the parser.
    assert 0 < len(reasons) < tried


@pytest.mark.parametrize("make", fuzz_targets.TARGETS, ids=lambda make: make.__name__)
def test_few_damaged_files(make, tmp_path, monkeypatch):
    fuzz(make, tmp_path, monkeypatch, FEW, random=False)


@pytest.mark.slow
@pytest.mark.parametrize("make", fuzz_targets.TARGETS, ids=lambda make: make.__name__)
def test_many_damaged_files(make, tmp_path, monkeypatch):
    fuzz(make, tmp_path, monkeypatch, MANY, random=True)
