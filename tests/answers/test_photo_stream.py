"""What is printed about photos that are used whole."""

import argparse

import pytest
from ml_collections import ConfigDict

from apinet_jax.answers.photo_stream import warn_of_whole_photos
from apinet_jax.commands import compare, explain, gallery, predict
from apinet_jax.system.errors import InputError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop_to_box": True, "name": "cub"}, "trained on boxes"),
        ({"crop_to_box": False, "name": "aircraft"}, "banner"),
        ({"crop_to_box": False, "name": "cub"}, ""),
    ],
    ids=["boxes", "aircraft", "whole"],
)
def test_parts_of_photos_are_warned_about(settings, words, capsys):
    warn_of_whole_photos(ConfigDict({"data": settings}))
    printed = capsys.readouterr().err
    assert words in printed
    assert bool(printed) == bool(words)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (compare, ["RUN", "a.png", "b.png"]),
        (explain, ["RUN", "a.png"]),
        (gallery, ["RUN", "add", "new", "PHOTO"]),
        (predict, ["RUN", "PHOTO"]),
    ],
    ids=lambda some: getattr(some, "__name__", "").split(".")[-1],
)
def test_every_command_that_takes_photos_warns(
    command, arguments, workdir, photos, tmp_path, monkeypatch
):
    def warn(config):
        raise InputError("warned")

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    known = {"RUN": str(workdir), "PHOTO": str(photos / "test/class0/0.png")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "warn_of_whole_photos", warn)
    with pytest.raises(InputError, match="warned"):
        command.run(parser.parse_args([known.get(one, one) for one in arguments]))
