"""The compiled step: devices, stages, masks, switches."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import max_error

from apinet_jax.data.batch import Batch
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.method.steps import (
    Preprocess,
    init_state,
    make_eval_step,
    make_train_step,
)
from apinet_jax.models import make_trunk
from apinet_jax.setup.program_costs import collectives_of
from apinet_jax.system.errors import InputError
from apinet_jax.system.mesh import check_divisible, make_mesh, replicated, to_global

SIZE, CLASSES, WIDTH = 32, 4, 16
PREPROCESS = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@cache
def setup(devices=1, stage="full", interaction=True, groups=1, **switches):
    """Return mesh, model, optimizer and compiled step."""
    mesh = make_mesh(jax.devices()[:devices])
    trunk = make_trunk("test_tiny", batch_norm_groups=groups)
    kind = "both" if interaction else "none"
    model = APINet(trunk, WIDTH, CLASSES, hidden=16, dropout=0.5, interaction=kind)
    optimizer = make_optimizer(
        cosine_schedule(0.05, 100),
        momentum=0.9,
        weight_decay=0.0,
        decay_bn_bias=True,
        frozen_steps=2 if stage == "frozen" else 0,
    )
    objective = Objective(method="apinet" if interaction else "softmax", **switches)
    step = make_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        objective=objective,
        preprocess=PREPROCESS,
        stage=stage,
    )
    return mesh, model, optimizer, step


@cache
def drawn(interaction=True, frozen=False):
    """Return a first state on the host; it does not depend on the mesh or the loss."""
    _, model, optimizer, _ = setup(interaction=interaction, stage="frozen" if frozen else "full")
    draw = jax.jit(lambda key: init_state(model, optimizer, key, crop=SIZE))
    return jax.device_get(draw(jax.random.key(0)))


def fresh(mesh, interaction=True, frozen=False):
    return jax.device_put(drawn(interaction, frozen), replicated(mesh))


def images(labels, image_id=None):
    """Return noise with a tint for each class."""
    labels = np.asarray(labels, np.int32)
    noise = np.random.default_rng(0).integers(0, 128, (len(labels), SIZE, SIZE, 3))
    pixels = (noise + 24 * labels[:, None, None, None]).astype(np.uint8)
    ids = np.arange(len(labels)) if image_id is None else image_id
    return Batch(pixels, labels, np.asarray(ids, np.int32), np.ones(len(labels), bool))


KEY = jax.random.key(0)
BALANCED = images(np.repeat(np.arange(CLASSES), 4))


def run(batch=BALANCED, steps=1, **kwargs):
    """Return the state before, the state after, and the metrics of each step."""
    mesh, _, _, step = setup(**kwargs)
    state = fresh(mesh, kwargs.get("interaction", True), kwargs.get("stage") == "frozen")
    before = jax.tree.map(np.array, state)  # the buffers themselves are donated
    metrics = []
    for _ in range(steps):
        state, one = step(state, to_global(batch, mesh), KEY)
        metrics.append(jax.device_get(one))
    return before, jax.device_get(state), metrics


def test_eight_devices_compute_what_one_does():
    _, one, (metrics_1,) = run()
    _, eight, (metrics_8,) = run(devices=8)
    assert metrics_1.pairs == metrics_8.pairs == 32
    for name in ("loss", "cross_entropy", "ranking", "grad_norm"):
        assert max_error(getattr(metrics_8, name), getattr(metrics_1, name)) < 1e-5, name
    for ours, reference in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        assert np.abs(ours - reference).max() <= 1e-5 * max(1e-3, np.abs(reference).max())


@pytest.mark.parametrize("stage", ["full", "frozen"])
def test_devices_exchange_only_gradients_statistics_and_features(stage):
    mesh, _, _, step = setup(devices=8, stage=stage)
    state = fresh(mesh, frozen=stage == "frozen")
    found = collectives_of(step.lower(state, to_global(BALANCED, mesh), KEY).compile().as_text())
    assert {one.kind for one in found} == {"all-reduce", "all-gather"}
    gathered = [size for one in found if one.kind == "all-gather" for size in one.sizes]
    reduced = [size for one in found if one.kind == "all-reduce" for size in one.sizes]
    assert max(gathered) == len(BALANCED.label) * WIDTH  # [B D]
    # For the distances, as partners, and the partners' part of the hidden layer [B M].
    assert sum(gathered) < 4 * max(gathered)
    trained = state.params if stage == "full" else {**state.params, "trunk": {}}
    gradients = sum(leaf.size for leaf in jax.tree.leaves(trained))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats))
    # Mean, variance and their gradients are a few numbers per channel; the gradient of the
    # gathered features is [B D], and that of the hidden layer [B M]. CPUs reduce the gradient of
    # the classifier for each kind of pair and of feature.
    others = 5 * statistics + 3 * max(gathered) + 7 * state.params["fc"]["kernel"].size
    assert gradients < sum(reduced) < gradients + others


@pytest.mark.slow
def test_twenty_steps_on_eight_devices():
    """Compare float64: in float32, rounding soon changes the pairs."""

    def trajectory(devices):
        mesh = make_mesh(jax.devices()[:devices])
        model = APINet(make_trunk("test_tiny", jnp.float64), WIDTH, CLASSES, hidden=16)
        schedule = cosine_schedule(0.05, 20)
        options = {"momentum": 0.9, "weight_decay": 5e-4, "decay_bn_bias": True}
        optimizer = make_optimizer(schedule, **options, frozen_steps=0)
        step = make_train_step(
            mesh,
            model=model,
            optimizer=optimizer,
            objective=Objective(),
            preprocess=PREPROCESS._replace(dtype=jnp.float64),
            stage="full",
        )
        wide = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, drawn())
        state = jax.device_put(wide, replicated(mesh))
        rows = []
        for _ in range(20):
            state, metrics = step(state, to_global(BALANCED, mesh), KEY)
            rows.append(jax.device_get(metrics))
        return jax.device_get(state), rows

    with jax.enable_x64(True):
        one, rows_1 = trajectory(1)
        eight, rows_8 = trajectory(8)
    assert [row.pairs for row in rows_8] == [row.pairs for row in rows_1]
    assert rows_1[-1].loss < 0.8 * rows_1[0].loss
    for ours, reference in zip(rows_8, rows_1, strict=True):
        assert max_error(ours.loss, reference.loss) < 1e-9
    errors = jax.tree.map(max_error, eight.params, one.params)
    assert max(jax.tree.leaves(errors)) < 1e-9


def test_valid_pairs_of_the_global_batch():
    """The first device has four classes of one image each, so no intra pairs."""
    lonely = images([0, 1, 2, 3, 3, 3, 3, 3])
    _, _, (one,) = run(lonely)
    _, _, (two,) = run(lonely, devices=2)
    assert one.pairs == two.pairs == 5 + 8
    assert max_error(two.loss, one.loss) < 1e-5


def test_batch_without_pairs_only_updates_statistics():
    copies = images([1] * 8, image_id=[5] * 8)
    before, after, (metrics,) = run(copies)
    assert metrics.pairs == 0
    assert metrics.loss == 0
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.batch_stats, after.batch_stats)
    assert jax.tree.all(moved)


def test_every_parameter_gets_a_gradient():
    before, after, _ = run()
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.params, after.params)
    assert jax.tree.all(moved), moved


def test_frozen_stage_keeps_the_backbone():
    before, after, metrics = run(stage="frozen", steps=2)
    jax.tree.map(np.testing.assert_array_equal, before.params["trunk"], after.params["trunk"])
    for name in ("map1", "map2", "fc"):
        assert np.any(before.params[name]["kernel"] != after.params[name]["kernel"])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.batch_stats, after.batch_stats)
    assert jax.tree.all(moved)
    assert metrics[0].loss != metrics[1].loss


def test_stages_agree_on_loss_and_head():
    _, frozen, (a,) = run(stage="frozen")
    _, full, (b,) = run()
    assert max_error(a.loss, b.loss) < 1e-6
    assert max_error(frozen.params["fc"]["kernel"], full.params["fc"]["kernel"]) < 1e-5
    assert a.grad_norm < b.grad_norm


def test_stage_is_traced_once():
    run()
    *_, step = setup()
    traces = step._cache_size()
    run(steps=3)
    assert step._cache_size() == traces


def test_keys_share_one_trace():
    mesh, _, _, step = setup()
    batch = to_global(BALANCED, mesh)
    _, one = step(fresh(mesh), batch, KEY)
    traces = step._cache_size()
    _, other = step(fresh(mesh), batch, jax.random.key(1))
    assert one.loss != other.loss
    assert step._cache_size() == traces


def test_dropout_depends_on_the_step():
    _, first, _ = run()
    _, again, _ = run()
    jax.tree.map(np.testing.assert_array_equal, first, again)
    mesh, _, _, step = setup()
    later = fresh(mesh)._replace(step=jnp.array(7, jnp.int32))
    later = jax.device_put(later, replicated(mesh))
    _, metrics = step(later, to_global(BALANCED, mesh), KEY)
    _, _, (at_zero,) = run()
    assert metrics.loss != at_zero.loss


def test_loss_falls():
    _, _, metrics = run(steps=12)
    assert np.mean([m.loss for m in metrics[-3:]]) < 0.8 * metrics[0].loss


def test_softmax_baseline():
    before, after, (metrics,) = run(interaction=False)
    assert set(before.params) == {"trunk", "fc"}
    assert metrics.pairs == 0
    assert metrics.loss == metrics.cross_entropy
    assert metrics.loss > 0
    assert np.any(before.params["fc"]["kernel"] != after.params["fc"]["kernel"])


def test_paper_reduction_of_a_step():
    _, _, (code,) = run()
    _, _, (paper,) = run(reduction="paper", distance="euclidean", rank_weight=0.5)
    assert max_error(paper.cross_entropy, 4 * code.cross_entropy) < 1e-5
    assert max_error(paper.ranking, 2 * code.ranking) < 1e-5
    assert max_error(paper.loss, 4 * code.cross_entropy + code.ranking) < 1e-5


def test_ranking_grows_with_the_margin():
    """A row costs margin + p_other - p_self, so the mean grows with the margin, one to one."""
    _, _, (small,) = run()
    _, _, (one,) = run(rank_margin=1.0)
    _, _, (two,) = run(rank_margin=2.0)
    assert 0 <= small.ranking < one.ranking
    assert abs(two.ranking - one.ranking - 1.0) < 1e-5


def test_batch_norm_groups_equal_separate_batches():
    """Two groups are normalised as two separate batches."""
    mesh, model, _, _ = setup(groups=2)
    state = fresh(mesh)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    x = jax.random.normal(jax.random.key(1), (8, SIZE, SIZE, 3))

    @partial(jax.jit, static_argnums=0)
    def features(model, x):
        return model.apply(variables, x, True, mutable=["batch_stats"], method="features")

    both, moved = features(model, x)
    _, whole, *_ = setup()
    halves = [features(whole, x[:4]), features(whole, x[4:])]
    apart = jnp.concatenate([f for f, _ in halves])
    assert max_error(both, apart) < 1e-5
    assert max_error(both, features(whole, x)[0]) > 1e-3
    mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1])
    errors = jax.tree.map(max_error, moved, mean)
    assert max(jax.tree.leaves(errors)) < 1e-5


def test_batch_norm_per_device():
    """Two devices with separate statistics equal two models with half of the batch each."""
    before, after, (metrics,) = run(devices=2, groups=2)
    _, model, *_ = setup()
    images = (jnp.asarray(BALANCED.image, jnp.float32) / 255 - 0.5) / 0.25
    variables = {"params": before.params, "batch_stats": before.batch_stats}

    @jax.jit
    def moved_by(variables, half):
        _, moved = model.apply(variables, half, True, mutable=["batch_stats"], method="features")
        return moved["batch_stats"]

    halves = moved_by(variables, images[:8]), moved_by(variables, images[8:])
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    errors = jax.tree.map(max_error, after.batch_stats, mean)
    assert max(jax.tree.leaves(errors)) < 1e-5
    _, _, (whole,) = run(devices=2)
    assert max_error(metrics.loss, whole.loss) > 1e-4


def test_fixed_batch_norm_uses_the_running_statistics():
    before, after, _ = run(groups=0)
    jax.tree.map(np.testing.assert_array_equal, before.batch_stats, after.batch_stats)
    moved = jax.tree.map(lambda a, b: np.any(a != b), before.params, after.params)
    assert all(jax.tree.leaves(moved))
    _, fixed, *_ = setup(groups=0)
    variables = {"params": before.params, "batch_stats": before.batch_stats}
    images = jnp.asarray(BALANCED.image, jnp.float32) / 255

    @partial(jax.jit, static_argnames="train")
    def features(variables, train):
        mutable = ["batch_stats"]
        return fixed.apply(variables, images, train, mutable=mutable, method="features")[0]

    np.testing.assert_array_equal(*(features(variables, train) for train in (True, False)))


def test_eval_step_returns_replicated_logits():
    mesh, model, _, _ = setup(devices=8)
    state = fresh(mesh)
    eval_step = make_eval_step(mesh, model=model, preprocess=PREPROCESS)
    found = eval_step(state.params, state.batch_stats, to_global(BALANCED, mesh).image)
    assert found.is_fully_replicated
    normalised = (jnp.asarray(BALANCED.image, jnp.float32) / 255 - 0.5) / 0.25
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jax.jit(partial(model.apply, train=False))(variables, normalised)
    assert max_error(found, logits) < 1e-4


def test_flip_averages_mirror_images():
    mesh, model, _, _ = setup(devices=8)
    state = fresh(mesh)
    step, both = (
        make_eval_step(mesh, model=model, preprocess=PREPROCESS, flip=flip)
        for flip in (False, True)
    )
    mirrored = BALANCED._replace(image=np.ascontiguousarray(BALANCED.image[:, :, ::-1]))

    def logits(step, batch):
        images = to_global(batch, mesh).image
        return np.asarray(step(state.params, state.batch_stats, images))

    expected = (logits(step, BALANCED) + logits(step, mirrored)) / 2
    assert max_error(logits(both, BALANCED), expected) < 1e-5
    assert max_error(logits(step, BALANCED), expected) > 1e-3


def test_average_of_parameters_by_hand():
    """With a decay of 0.3, the factors are 1/10, 2/11, 3/12 and 0.3."""
    mesh, model, optimizer, _ = setup()
    options = {"model": model, "optimizer": optimizer, "preprocess": PREPROCESS}
    step = make_train_step(mesh, **options, objective=Objective(), stage="full", ema=0.3)
    state = fresh(mesh)
    average = jax.tree.map(np.array, state.params)
    state = state._replace(ema=jax.tree.map(jnp.copy, state.params))
    for keep in (1 / 10, 2 / 11, 3 / 12, 0.3):
        state, _ = step(state, to_global(BALANCED, mesh), KEY)
        average = jax.tree.map(lambda a, p, k=keep: k * a + (1 - k) * p, average, state.params)
    errors = jax.tree.map(max_error, state.ema, average)
    assert max(jax.tree.leaves(errors)) < 1e-5
    assert state.inference_params is state.ema
    moved = jax.tree.map(max_error, state.ema, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_indivisible_batch():
    with pytest.raises(InputError, match=r"batch of 12 images.*8 devices.*8 or 16"):
        check_divisible(12, make_mesh(), "batch.classes x batch.images")
    check_divisible(16, make_mesh(), "batch.classes x batch.images")
