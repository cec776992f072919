"""Scripts in `launch/` that start jobs elsewhere."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch/tpu_vm.sh"
SCRIPTS = [path for path in sorted(ROOT.glob("launch/*")) if path.name != "Dockerfile"]


def run(*arguments, path=None):
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.run(
        ["bash", SCRIPT, *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture
def gcloud(tmp_path):
    """A stand-in for gcloud that logs its commands and answers with the states a test names."""

    def prepare(**states):
        folder = tmp_path / "bin"
        folder.mkdir()
        answers = "\n".join(f"*'{group} describe'*) echo {s} ;;" for group, s in states.items())
        script = f'#!/bin/bash\necho "$3 $4" >>{tmp_path}/asked\n'
        script += f'case "$*" in\n{answers.replace("_", "-")}\n*describe*) exit 1 ;;\nesac\n'
        (folder / "gcloud").write_text(script)
        (folder / "gcloud").chmod(0o755)
        return folder, lambda: [
            line
            for line in (tmp_path / "asked").read_text().splitlines()
            if not line.endswith("describe")
        ]

    return prepare


def test_dry_run_prints_every_command_and_runs_none(gcloud, tmp_path):
    path, _ = gcloud()
    done = run(
        *("--dry-run", "--queued", "--spot", "--zone=us-west4-a", "--name=birds", "train"),
        *("--config", "configs/cub.py", "--config.data.dir=/mnt/my data"),
        path=path,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "asked").exists()
    lines = done.stdout.splitlines()
    assert [" ".join(line.split()[3:5]) for line in lines if line.startswith("gcloud ")] == [
        "queued-resources create",
        "tpu-vm scp",
        *["tpu-vm ssh"] * 4,
    ]
    assert lines[1].startswith("git archive")
    assert "--node-id=birds" in done.stdout
    assert done.stdout.count("--zone=us-west4-a") == 6
    assert "--spot" in done.stdout
    assert r"--config.data.dir=/mnt/my\\ data" in done.stdout  # quoted once for each shell


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_ready_tpu_is_used(gcloud):
    path, asked = gcloud(tpu_vm="READY")
    done = run("--name=birds", "train", "--config=configs/cub.py", path=path)
    assert done.returncode == 0, done.stderr
    assert asked() == ["tpu-vm ssh", "tpu-vm scp", *["tpu-vm ssh"] * 4]


def test_preempted_tpu_is_recreated(gcloud):
    path, asked = gcloud(tpu_vm="PREEMPTED")
    done = run("--name=birds", "train", "--config=configs/cub.py", path=path)
    assert done.returncode == 0, done.stderr
    assert asked()[:2] == ["tpu-vm delete", "tpu-vm create"]


def test_stopped_tpu_is_started_and_keeps_its_disk(gcloud):
    path, asked = gcloud(tpu_vm="STOPPED")
    done = run("train", "--config=configs/cub.py", path=path)
    assert done.returncode == 0, done.stderr
    assert asked()[0] == "tpu-vm start"
    assert "tpu-vm delete" not in asked()


def test_tpu_in_repair_is_left_unchanged(gcloud):
    path, asked = gcloud(tpu_vm="REPAIRING")
    done = run("train", "--config=configs/cub.py", path=path)
    assert done.returncode == 2
    assert "error: the TPU apinet is neither ready nor deleted" in done.stderr
    assert asked() == []


@pytest.fixture
def host(gcloud, tmp_path):
    """A host that runs every command except the installation, with a stand-in for the program."""
    path, asked = gcloud(tpu_vm="READY")
    home = tmp_path / "home"
    python = home / "apinet_jax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    stand_in = path / "gcloud"
    execute = f"""for word; do case $word in
        *apt-get*|*prepare_environment*) ;;
        --command=*) cd {home} && bash -c "${{word#--command=}}"; exit ;;
        esac; done"""
    stand_in.write_text(f"{stand_in.read_text()}{execute}\n")

    def prepare(program):
        python.write_text(f"#!/bin/bash\n{program}\n")
        python.chmod(0o755)
        return path, asked, home / "apinet_jax"

    return prepare


needs_pkill = pytest.mark.skipif(shutil.which("pkill") is None, reason="needs pkill")


@needs_pkill
@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_is_that_of_the_program(code, host):
    path, *_ = host(f'printf "<%s>" "$@"; exit {code}')
    done = run("train", "--config=configs/cub.py", "--config.data.dir=/mnt/my data", path=path)
    assert "<-m><apinet_jax.main><--config=configs/cub.py><--config.data.dir=/mnt/my data>" in (
        done.stdout
    )
    assert done.returncode == code, done.stderr


@needs_pkill
def test_running_program_is_followed_without_installing(host):
    path, asked, folder = host(
        "trap 'echo saved; exit 143' TERM; for _ in {1..300}; do sleep 0.1; done"
    )
    command = ["bash", SCRIPT, "train", "--config=configs/cub.py"]
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as first:
        while not (folder / "run.pid").is_file():
            time.sleep(0.1)
        before = len(asked())
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as second:
            assert "is ready" in second.stderr.readline()
            assert second.stderr.readline() == "The program is already running.\n"
            assert run("stop", path=path).returncode == 0
            assert "saved" in second.communicate()[0]
        assert "saved" in first.communicate()[0]
    assert (first.returncode, second.returncode) == (143, 143)
    assert asked()[before:].count("tpu-vm scp") == 0


@needs_pkill
def test_reused_process_id_is_no_run(host):
    path, asked, folder = host("exit 0")
    (folder / "run.pid").write_text(f"{os.getpid()}\n")
    assert run("train", "--config=configs/cub.py", path=path).returncode == 0
    assert "tpu-vm scp" in asked()


def test_unreachable_hosts_are_not_taken_for_busy(gcloud):
    path, asked = gcloud(tpu_vm="READY")
    stand_in = path / "gcloud"
    stand_in.write_text(f"{stand_in.read_text()}case $4 in ssh) exit 255 ;; esac\n")
    done = run("train", "--config=configs/cub.py", path=path)
    assert done.returncode == 2
    assert "could not find out whether the program is running" in done.stderr
    assert asked() == ["tpu-vm ssh"]


@pytest.mark.parametrize(("queue", "expected"), [("FAILED", "queued-resources"), (None, "tpu-vm")])
def test_delete_removes_what_exists(queue, expected, gcloud):
    path, asked = gcloud(**({"queued_resources": queue} if queue else {}))
    done = run("delete", path=path)
    assert done.returncode == 0, done.stderr
    assert asked() == [f"{expected} delete"]


def test_queue_is_waited_for(gcloud):
    path, asked = gcloud(queued_resources="ACTIVE")
    done = run("--queued", "train", "--config=configs/cub.py", path=path)
    assert done.returncode == 0, done.stderr
    assert "is ACTIVE" in done.stderr
    assert "queued-resources create" not in asked()


def test_failed_queue_request(gcloud):
    path, _ = gcloud(queued_resources="FAILED")
    done = run("--queued", "train", "--config=configs/cub.py", path=path)
    assert done.returncode == 2
    assert "the queue request for apinet failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "unknown action 'fly': valid are train, log, stop, delete"),
        ([], "unknown action ''"),
        (["--sopt", "train"], "unknown option '--sopt'"),
        (["train"], "train needs a configuration"),
    ],
)
def test_wrong_input_is_refused(arguments, message, gcloud):
    done = run(*arguments, path=gcloud()[0])
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr


def test_help():
    done = run("--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert "delete" in done.stdout
    assert "set -e" not in done.stdout


@pytest.mark.parametrize("kind", ["v5litepod-16", "v6e-256", "v4-16"])
def test_several_hosts_need_a_shared_workdir(kind, gcloud, tmp_path):
    path, _ = gcloud()
    train = ("--dry-run", f"--type={kind}", "train", "--config=configs/cub.py")
    for named in ([], ["--workdir=runs/cub"], ["--workdir", "runs/cub"]):
        done = run(*train, *named, path=path)
        assert done.returncode == 2
        assert f"error: {kind} has several hosts, and all need access to the workdir" in done.stderr
        assert "gcloud" not in done.stdout
    done = run(*train, "--workdir=/mnt/shared/cub", path=path)
    assert done.returncode == 0
    assert "/mnt/shared/cub must be on a disk that all of them have mounted" in done.stderr
    for named in (["--workdir=gs://bucket/cub"], ["--workdir", "gs://bucket/cub"]):
        done = run(*train, *named, path=path)
        assert done.returncode == 0, done.stderr
        assert "several hosts" not in done.stderr
        assert "gs://bucket/cub" in done.stdout


@pytest.mark.parametrize("kind", ["v5litepod-8", "v6e-1", "v5p-8", "another"])
def test_single_host_may_use_a_local_workdir(kind, gcloud):
    done = run("--dry-run", f"--type={kind}", "train", "--config=configs/cub.py", path=gcloud()[0])
    assert done.returncode == 0, done.stderr
    assert "several hosts" not in done.stderr


def test_hosts_install_bucket_support(gcloud):
    done = run("--dry-run", "train", "--config=configs/cub.py", path=gcloud()[0])
    assert "prepare_environment requirements-gcs.txt" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    if shutil.which("shellcheck") is None:
        subprocess.run(["bash", "-n", script], check=True)
        return
    done = subprocess.run(
        ["shellcheck", "--external-sources", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
