"""Some steps of training, by one process or as one of the processes of a job.

python tests/helpers/host_trajectory.py FOLDER PORT PROCESSES INDEX BITS
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from apinet_jax.data.batch import Batch
from apinet_jax.data.sampler import BalancedSampler
from apinet_jax.method.interaction import APINet
from apinet_jax.method.objective import Objective
from apinet_jax.method.optim import cosine_schedule, make_optimizer
from apinet_jax.method.pairs import mine_pairs
from apinet_jax.method.steps import Preprocess, init_state, make_train_step
from apinet_jax.models import make_trunk, trunk_spec
from apinet_jax.system import hosts
from apinet_jax.system.mesh import host_rows, make_mesh, replicated, sharded_by_batch, to_global

SIZE, CLASSES, STEPS = 32, 4, 20
LABELS = np.repeat(np.arange(CLASSES), 9)


def trajectory(devices, trunk, dtype, steps):
    """Losses, partners, the images that this process read, and the first step's gradient."""
    mesh, width = make_mesh(devices), trunk_spec(trunk).width
    model = APINet(make_trunk(trunk, dtype), width, CLASSES, hidden=16, dropout=0.5)
    optimizer = make_optimizer(
        cosine_schedule(0.05, STEPS),
        momentum=0.9,
        weight_decay=0.0,
        decay_bn_bias=True,
        frozen_steps=0,
    )
    step = make_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        objective=Objective(),
        preprocess=Preprocess((0.5,) * 3, (0.25,) * 3, dtype),
        stage="full",
    )

    def partners(state, batch):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        images = (batch.image / 255.0).astype(dtype)
        features, _ = model.apply(
            variables, images, train=True, mutable=["batch_stats"], method="features"
        )
        return mine_pairs(features, batch.label, batch.image_id)

    everywhere = replicated(mesh)
    key = jax.jit(jax.random.key, out_shardings=everywhere)(np.uint32(0))
    mined = jax.jit(
        partners, in_shardings=(everywhere, sharded_by_batch(mesh)), out_shardings=everywhere
    )
    draw = jax.jit(lambda key: init_state(model, optimizer, key, crop=SIZE))
    state = jax.tree.map(
        lambda x: np.asarray(x, dtype if x.dtype == np.float32 else x.dtype),
        jax.device_get(draw(jax.random.key(0))),
    )
    state = jax.device_put(state, everywhere)

    noise = np.random.default_rng(0).integers(0, 128, (len(LABELS), SIZE, SIZE, 3))
    pixels = (noise + 24 * LABELS[:, None, None, None]).astype(np.uint8)
    sampler = BalancedSampler(LABELS, classes=4, images=4, num_steps=STEPS, seed=0)
    rows = host_rows(sampler.batch_size, mesh)
    found = {"rows": rows, "read": [], "loss": [], "intra": [], "inter": []}
    for number in range(steps):
        mine = sampler(number)[rows]
        batch = to_global(
            Batch(
                pixels[mine],
                LABELS[mine].astype(np.int32),
                mine.astype(np.int32),
                np.ones(len(mine), bool),
            ),
            mesh,
        )
        pairs = mined(state, batch)
        state, metrics = step(state, batch, key)
        if number == 0:  # momentum begins as the gradient
            moments = [x for x in jax.tree.leaves(state.opt_state) if jnp.ndim(x)]
            found["gradient"] = np.concatenate([np.ravel(jax.device_get(x)) for x in moments])
        for name, value in {
            "read": mine,
            "loss": metrics.loss,
            "intra": pairs.intra,
            "inter": pairs.inter,
        }.items():
            found[name].append(np.asarray(jax.device_get(value)))
    return {name: np.array(values) for name, values in found.items()}


def steps_in(bits, devices):
    """One step of the tiny trunk in float32, or twenty of a ResNet in float64."""
    if bits == 32:
        return trajectory(devices, "test_tiny", jnp.float32, 1)
    with jax.enable_x64(True):
        return trajectory(devices, "resnet10_w16", jnp.float64, STEPS)


if __name__ == "__main__":
    folder, port, processes, index, bits = sys.argv[1:]
    hosts.initialize_job(f"localhost:{port}", int(processes), int(index))
    # A mesh follows the wires: neighbours on it may be on different hosts.
    of_hosts = [jax.devices()[:2], jax.devices()[2:]]
    found = steps_in(int(bits), [one for pair in zip(*of_hosts, strict=True) for one in pair])
    np.savez(Path(folder) / f"{index}.npz", **found)
