"""Comparison of an interrupted run with an undisturbed one."""

import json

import jax
import ml_collections
import numpy as np
from tiny_runs import rows_of

from apinet_jax.setup.build import fresh_state, make_dataset, make_program
from apinet_jax.system.mesh import make_mesh
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights
from apinet_jax.workdir.metrics_log import TIME_FIELDS

TOTAL, FROZEN, EPOCH, SAVE_EVERY = 16, 4, 4, 3
# More state and randomness than the defaults, and checkpoints too large for a full disk.
RECIPE = {
    "model__hidden": 1024,
    "optim__ema": 0.9,
    "optim__nesterov": True,
    "data__augmentation": "random_resized",
}


def program_of(workdir, photos, devices):
    """Configuration, data set, mesh and program of a run, on some of this process's devices."""
    config = ml_collections.ConfigDict(load_weights(workdir).metadata["config"])
    mesh, dataset = make_mesh(jax.devices()[:devices]), make_dataset(config)
    return config, dataset, mesh, make_program(config, 4, len(dataset.train), mesh)


def state_at(workdir, step, config, mesh, program):
    with Checkpoints(workdir, keep=10) as checkpoints:
        return checkpoints.restore(step, fresh_state(config, program, mesh))


def assert_same_run(workdir, reference, photos):
    config, _, mesh, program = program_of(reference, photos, 1)
    states = [state_at(run, TOTAL, config, mesh, program) for run in (workdir, reference)]
    best = [load_weights(run, "best")[:2] for run in (workdir, reference)]
    for ours, theirs in (states, best):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
    assert int(states[0].step) == TOTAL

    def timeless(run):
        return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows_of(run)]

    assert timeless(workdir) == timeless(reference)
    names = [(row["kind"], row["step"]) for row in rows_of(workdir)]
    steps = [("train", step) for step in range(1, TOTAL + 1)]
    steps += [("validation", step) for step in range(EPOCH, TOTAL + 1, EPOCH)]
    assert sorted(names) == sorted(steps)
    results = [json.loads((run / "results.json").read_text()) for run in (workdir, reference)]
    assert results[0] == results[1]
