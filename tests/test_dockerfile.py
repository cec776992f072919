"""`launch/Dockerfile`, as far as it can be tested without docker."""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "launch/Dockerfile"


def instructions():
    """Pairs of an instruction and its arguments, without comments, with continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line[:1] not in ("", "#")]
    joined = re.split(r"(?<!\\)\n", "\n".join(lines))
    return [tuple(one.split(" ", 1)) for one in joined]


def arguments_of(name):
    return [arguments for each, arguments in instructions() if each == name]


def ignored(path):
    """Whether `.dockerignore` excludes a path from the image; the last matching pattern decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        places = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            fits = pattern.removeprefix("**/") in parts
        else:
            fits = any(fnmatch(place, pattern) and "/" not in place for place in places)
        if fits:
            out = not line.startswith("!")
    return out


def copied():
    """Sources and targets of all COPY instructions."""
    pairs = []
    for arguments in arguments_of("COPY"):
        *sources, target = arguments.split()
        pairs += [(source, source if target == "./" else target) for source in sources]
    return pairs


@pytest.fixture
def image(tmp_path):
    """The folder /app of the image."""
    app = tmp_path / "app"
    for source, target in copied():
        place = ROOT / source
        files = [place] if place.is_file() else list(place.rglob("*"))
        for path in files:
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and not ignored(name):
                to = app / target / path.relative_to(place) if place.is_dir() else app / target
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
    return app


def test_build_context_holds_what_is_copied_and_little_else():
    for source, _ in copied():
        assert (ROOT / source).exists(), source
        assert not ignored(source.rstrip("/")), source
    for name in (
        ".git/config",
        ".venv/bin/python",
        "runs/x/run.json",
        "photos/a.jpg",
        "tests/a.py",
    ):
        assert ignored(name), name
    assert ignored("apinet_jax/__pycache__/main.pyc")
    assert not ignored("apinet_jax/data/official/cub.py")


def test_image_holds_what_the_program_needs(image):
    entry = json.loads(arguments_of("ENTRYPOINT")[0])
    assert entry[0] == "python"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": "", "PYTHONSAFEPATH": ""}
    command = [sys.executable, *entry[1:], "--config", "configs/demo.py", "--mode=eval"]
    done = subprocess.run(
        command, cwd=image, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error: --mode eval needs the folder of a run" in done.stderr
    code = "import apinet_jax.training, apinet_jax; print(apinet_jax.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=image,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(image / "apinet_jax/__init__.py")


def test_installed_packages_are_pinned(image, tmp_path):
    """Runs the command with a stand-in for `pip` that logs its arguments."""
    stand_in = tmp_path / "bin/pip"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\n')
    stand_in.chmod(0o755)
    (install,) = [command for command in arguments_of("RUN") if "pip install" in command]
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", install], cwd=image, env={"PATH": path}, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    (jax,) = [pin for pin in pins if pin.startswith("jax==")]
    assert asked[-1] == jax.replace("jax", "jax[cuda12]")
    assert asked[asked.index("--requirement") + 1] == "requirements-gcs.txt"
    assert "-r requirements.txt" in (image / "requirements-gcs.txt").read_text().splitlines()


def test_dependencies_come_first_and_user_is_not_root():
    order = [f"{name} {arguments}" for name, arguments in instructions()]
    install = next(i for i, one in enumerate(order) if "pip install" in one)
    program = next(i for i, one in enumerate(order) if one.startswith("COPY apinet_jax"))
    assert install < program
    assert order[-2].startswith("USER ")
    assert "root" not in order[-2]
    assert arguments_of("ARG") == ["USER_ID=1000"]


def test_commands_pass_the_linters(tmp_path):
    for number, command in enumerate(arguments_of("RUN")):
        script = tmp_path / f"{number}.sh"
        script.write_text(f"#!/bin/sh\nexport USER_ID=1\n{command}\n")
        checker = ["shellcheck"] if shutil.which("shellcheck") else ["sh", "-n"]
        done = subprocess.run([*checker, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    linter = Path(sys.executable).with_name("hadolint")
    if linter.exists():  # pinned for the machines it supports
        done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
