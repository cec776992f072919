"""Costs of programs; the CPU compiler stands in for a TPU's."""

import importlib.util

import jax
import pytest

from apinet_jax.__main__ import run_command
from apinet_jax.commands import compile_check
from apinet_jax.setup import memory, program_costs
from apinet_jax.setup.program_costs import Chip, Collective, Costs, collectives_of, roofline
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.system.mesh import make_mesh

# Lines of programs for TPUs and CPUs.
PROGRAM = """
  %all-gather.19 = f32[8,4,128]{2,1,0:T(4,128)} all-gather(%p), channel_id=55, dimensions={0}
  %all-gather.21 = f32[8,4,128]{2,1,0:T(4,128)S(1)} all-gather(%q), channel_id=55, dimensions={0}
  %all-reduce.1 = (f32[32]{0}, /*index=1*/bf16[2,3]{1,0}) all-reduce(%a, %b), channel_id=13, to=%r
  %start = (bf16[4,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%x), channel_id=56, dimensions={0}
  %done = bf16[32,128]{1,0} all-gather-done(%start)
  %sum = s32[] all-reduce(%n), replica_groups={{0,1}}, to_apply=%add
  %no = f32[1024]{0} add(%c, %d)
  %in = f32[8]{0} all-reduce(%e), channel_id=57, metadata={op_name="jit(f)/while/body/reduce_sum"}
  %out = f32[9]{0} all-reduce(%g), channel_id=58, metadata={op_name="jit(f)/transpose(jvp())/while"}
"""
CUB_ON_TWO = ["--config=configs/cub.py", "--topology=v5e:1x2"]
SETTINGS = (
    "data.resize=36",
    "data.crop=32",
    "batch.classes=4",
    "batch.images=2",
    "model.hidden=8192",
    "model.trunk=test_tiny",
)


def test_collectives_are_counted_once_with_their_results():
    assert collectives_of(PROGRAM) == (
        Collective("all-gather", (4096,), 16384),
        Collective("all-reduce", (32, 6), 128 + 12),
        Collective("all-gather", (4096,), 8192),
        Collective("all-reduce", (1,), 4),
        Collective("all-reduce", (8,), 32),
        Collective("all-reduce", (9,), 36),
    )
    in_loop, behind = collectives_of(PROGRAM, loops=3)[4:-1], collectives_of(PROGRAM, loops=3)[-1]
    assert in_loop == 3 * (Collective("all-reduce", (8,), 32),)
    assert behind.sizes == (9,)


def test_slowest_resource_bounds_a_step():
    chip = Chip(flops=100.0, bandwidth=10.0, interconnect=1.0, memory=1)
    exchanges = (Collective("all-reduce", (1,), 4), Collective("all-gather", (1,), 2))
    costs = Costs(1200.0, 100.0, 0, 0, 0, 0, exchanges)
    assert costs.exchanged == 2 * 4 + 2
    assert roofline(costs, chip) == (12.0, "compute")
    assert roofline(costs._replace(flops=900.0), chip) == (10.0, "memory")
    assert roofline(costs._replace(flops=1.0, moved=1.0), chip) == (10.0, "interconnect")


@pytest.fixture
def stand_in(monkeypatch):
    """Two CPU devices instead of a topology."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu" or found(name))
    monkeypatch.setattr(compile_check, "_mesh", lambda _: make_mesh(jax.devices()[:2]))
    monkeypatch.setattr(compile_check, "_ON_NO_TPU", {})

    def with_memory(num_bytes):
        monkeypatch.setitem(program_costs.CHIPS, "cpu", Chip(1e12, 1e9, 1e8, num_bytes))

    return with_memory


def check(*arguments):
    settings = [f"--set={change}" for change in (*SETTINGS, *arguments)]
    command = ["compile_check", "--config=configs/demo.py", "--topology=v5e:1x2"]
    run_command([*command, *settings, "--images", "480", "12"])


def test_table_of_a_program_that_fits(stand_in, capsys):
    stand_in(2**30)
    check()
    rows = {line[:25].strip(): line[25:].strip() for line in capsys.readouterr().out.splitlines()}
    assert rows["chips"] == "2 x cpu"
    assert rows["batch"] == "4 x 2 at 32"
    assert rows["memory of a chip"] == "1.0 GiB"
    assert rows["needed"].endswith("MiB (1 %)") or rows["needed"].endswith("MiB (0 %)")
    assert float(rows["bytes moved a step"].split()[0]) > 0
    assert "all-reduce" in rows
    assert "ms (" in rows["least time a step"]
    assert rows["steps"] == "4800"  # 80 epochs of 480 images in batches of 8
    assert "chip-hours" in rows["least time of the run"]


def test_program_that_does_not_fit(stand_in, monkeypatch, capsys):
    stand_in(2**12)
    monkeypatch.setattr(memory, "memory_saving_options", lambda *_: [{"batch.classes": 2}])
    with pytest.raises(RunError, match="does not fit v5e:1x2"):
        check()
    printed = capsys.readouterr().out
    assert "too much" in printed
    assert "would fit" in printed
    assert "more chips" in printed


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install libtpu"):
        check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/none.py", "--topology=v5e:2x4"],
            "There is no configuration file 'configs/none.py'",
        ),
        (["--config=configs/cub.py", "--topology=v5e:2x4", "--set=model.trnk=x"], "no field 'mod"),
        (["--config=configs/cub.py"], "required: --topology"),
        ([*CUB_ON_TWO, "--images", "0", "200"], "--images 0 200: at least 2 classes"),
        ([*CUB_ON_TWO, "--images", "200", "1"], "--images 200 1: at least 2"),
    ],
)
def test_wrong_input(stand_in, arguments, message):
    with pytest.raises(InputError, match=message):
        run_command(["compile_check", *arguments])


def test_official_counts_need_no_data(stand_in):
    config = compile_check.read_config("configs/cub.py")
    assert compile_check._counts(config) == (5994, 200)
