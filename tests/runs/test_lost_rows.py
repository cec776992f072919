"""Rows of the held-out images that were lost: the best checkpoint stays the best."""

import types

import jax.numpy as jnp
import pytest

from apinet_jax.loop import Run, _evaluate_held_out
from apinet_jax.method.types import TrainState
from apinet_jax.workdir.checkpoint import Checkpoints, load_weights
from apinet_jax.workdir.metrics_log import MetricsWriter

METADATA = {"config": {}, "class_names": ["a", "b"]}
PLAN = types.SimpleNamespace(epoch=1, evaluates=lambda _: True)
DATASET = types.SimpleNamespace(validation=[], test=None)


def evaluate_epochs(workdir, scores, start):
    """One epoch of one step for each score; returns the step of the best checkpoint."""
    with Checkpoints(workdir, keep=1) as checkpoints, MetricsWriter(workdir, 99) as writer:
        for step, score in enumerate(scores, start):
            summary = types.SimpleNamespace(top1=score, top5=1.0, macro=score, nll=1.0, ece=0.1)
            evaluation = types.SimpleNamespace(summary=summary)
            run = Run(
                *(None, workdir, DATASET, None, PLAN, None, checkpoints, writer, METADATA),
                evaluate=lambda *_, evaluation=evaluation: evaluation,
                check_signals=None,
            )
            state = TrainState(jnp.array(step), {"w": jnp.ones(3)}, {}, {"m": jnp.zeros(3)})
            _evaluate_held_out(run, state)
    return load_weights(workdir, "best").metadata["step"]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_worse_state_never_replaces_the_best(tmp_path, kept):
    assert evaluate_epochs(tmp_path, [0.5, 0.75], start=1) == 2
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    assert evaluate_epochs(tmp_path, [0.625, 0.6875], start=3) == 2
    assert evaluate_epochs(tmp_path, [0.875], start=5) == 5


def test_later_of_equally_good_states_is_the_best(tmp_path):
    assert evaluate_epochs(tmp_path, [0.5, 0.75, 0.75, 0.5], start=1) == 3
