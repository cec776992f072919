"""Microbatches and rematerialisation: less memory, the same gradient."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error

from apinet_jax.data.batch import Batch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.method.steps import init_state, make_train_step
from apinet_jax.method.trunk_pass import Preprocess, join_batch, split_batch
from apinet_jax.models import make_trunk, trunk_spec
from apinet_jax.setup.program_costs import collectives_of
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import check_divisible, make_mesh, replicated, to_global

SIZE, CLASSES = 64, 4
KEY = jax.random.key(0)
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), 4)
BATCH = Batch(
    np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3)).astype(np.uint8),
    LABELS,
    np.arange(16, dtype=np.int32),
    np.ones(16, bool),
)


def prepared(devices=1, groups=1, stage="full", trunk="test_tiny", remat="none", **settings):
    """Return the compiled step, the first state and the batch."""
    mesh = make_mesh(jax.devices()[:devices])
    module = make_trunk(trunk, jnp.float32, groups, remat)
    model = APINet(module, trunk_spec(trunk).width, CLASSES, hidden=16, dropout=0.5)
    optimizer = make_optimizer(
        cosine_schedule(0.05, 100),
        momentum=0.9,
        weight_decay=0.0,
        decay_bn_bias=True,
        frozen_steps=2 if stage == "frozen" else 0,
    )
    step = make_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        objective=Objective(),
        preprocess=Preprocess((0.5,) * 3, (0.25,) * 3),
        stage=stage,
        **settings,
    )
    draw = jax.jit(lambda key: init_state(model, optimizer, key, crop=SIZE))
    state = jax.device_put(jax.device_get(draw(jax.random.key(0))), replicated(mesh))
    batch = to_global(BATCH, mesh)
    return step.lower(state, batch, KEY).compile(), state, batch


def after_one_step(**settings):
    return first_step(*prepared(**settings))


def first_step(compiled, state, batch):
    """Return the state and the metrics after a step."""
    after, metrics = compiled(state, batch, KEY)
    return jax.device_get(after), jax.device_get(metrics)


def assert_same_step(ours, reference):
    """Compare loss, gradient (the first momentum), statistics and pairs."""
    (state, metrics), (expected, expected_metrics) = ours, reference
    assert metrics.pairs == expected_metrics.pairs == 32
    assert max_error(metrics.loss, expected_metrics.loss) < 1e-5
    assert max_error(metrics.grad_norm, expected_metrics.grad_norm) < 1e-5
    for part in ("opt_state", "batch_stats"):
        pairs = zip(
            jax.tree.leaves(getattr(state, part)),
            jax.tree.leaves(getattr(expected, part)),
            strict=True,
        )
        values = [(np.ravel(a), np.ravel(b)) for a, b in pairs if np.ndim(a)]
        if values:  # not every trunk has BatchNorm
            assert max_error(*map(np.concatenate, zip(*values, strict=True))) < 1e-5


@cache
def in_groups(groups, stage="full"):
    """Return one step without microbatches, with BatchNorm groups."""
    return after_one_step(groups=groups, stage=stage)


@pytest.mark.parametrize("stage", ["full", pytest.param("frozen", marks=pytest.mark.slow)])
def test_microbatches_equal_batch_norm_groups(stage):
    assert_same_step(after_one_step(microbatches=4, stage=stage), in_groups(4, stage))


def test_microbatches_on_two_devices():
    """Two devices have eight rows each; a microbatch has four of each."""
    assert_same_step(after_one_step(microbatches=2, devices=2, groups=2), in_groups(4))


def test_chunks_are_shared_equally():
    rows = jnp.arange(12)
    chunks = split_batch(rows, 3, shards=2)
    assert chunks.tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert join_batch(chunks, shards=2).tolist() == rows.tolist()


def test_microbatches_need_less_memory():
    whole, *_ = prepared(devices=2)
    parts, *_ = prepared(devices=2, microbatches=4)
    need = [compiled.memory_analysis().temp_size_in_bytes for compiled in (whole, parts)]
    print(f"temporaries: {need} bytes")
    assert need[1] < 0.6 * need[0]  # the gradients need the same memory
    found = collectives_of(parts.as_text())
    assert {one.kind for one in found} == {"all-reduce", "all-gather"}
    gathered = [size for one in found if one.kind == "all-gather" for size in one.sizes]
    assert max(gathered) == 16 * 16  # [B D]


@pytest.mark.slow
@pytest.mark.parametrize(("trunk", "remat"), [("resnet10_w16", "full"), ("squeezenet1_1", "dots")])
def test_remat_needs_less_memory_and_keeps_the_gradient(trunk, remat):
    plain, recomputed = (prepared(trunk=trunk, remat=name) for name in ("none", remat))
    need = [step.memory_analysis().temp_size_in_bytes for step, *_ in (plain, recomputed)]
    print(f"temporaries: {need} bytes")
    assert need[1] < 0.95 * need[0]
    assert_same_step(first_step(*recomputed), first_step(*plain))


def test_indivisible_microbatches():
    with pytest.raises(InputError, match=r"each of 3 microbatches.* a multiple of 6, .* 12 or 18"):
        check_divisible(16, make_mesh(jax.devices()[:2]), "batch.classes x batch.images", 3)
