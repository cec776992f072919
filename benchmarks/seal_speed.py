"""Times the checksums of a checkpoint against saving and restoring it, for any trunk.

    python -m benchmarks.seal_speed --trunk resnet101

Checksums (the seal) are written in the background after each save and verified before each restore.
Saving, sealing, checking and restoring take turns. The state is that of the trunk under a head for
200 classes, with momentum.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from apinet_jax.method.interaction import APINet
from apinet_jax.method.types import TrainState
from apinet_jax.models import TRUNKS, make_trunk
from apinet_jax.workdir.checkpoint import Checkpoints
from apinet_jax.workdir.seal import SEAL, find_damage, write_seal


def state_of(trunk: str, step: int) -> TrainState:
    model = APINet(make_trunk(trunk), TRUNKS[trunk].width, num_classes=200)
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.jit(lambda key: model.init(key, images))(jax.random.key(0))
    params = variables["params"]
    return TrainState(jnp.array(step), params, variables.get("batch_stats", {}), params)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", default="resnet101", choices=sorted(TRUNKS))
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each (default: 5)")
    arguments = parser.parse_args()

    state = state_of(arguments.trunk, 1)
    seconds: dict[str, list[float]] = {name: [] for name in ("save", "seal", "check", "restore")}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoints/1"

            def timed(name, function):
                start = time.perf_counter()
                outcome = function()
                seconds[name].append(time.perf_counter() - start)
                return outcome

            with Checkpoints(Path(folder), keep=1) as checkpoints:

                def save(checkpoints=checkpoints):
                    checkpoints.save(state, {"config": {}, "class_names": []})
                    checkpoints.wait()

                timed("save", save)
                (checkpoint / SEAL).unlink()
                timed("seal", partial(write_seal, checkpoint))
                assert timed("check", partial(find_damage, checkpoint)) is None
                timed("restore", lambda: jax.block_until_ready(checkpoints.restore(1, state)))
            size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{arguments.trunk}: {size / 2**20:.0f} MiB a checkpoint")
    for name, value in median.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"  {name:8} {value:6.2f} s ({low:.2f} to {high:.2f})")
    print(f"  seal / save = {median['seal'] / median['save']:.2f} (the save includes a seal)")
    print(f"  check / restore = {median['check'] / median['restore']:.2f}")


if __name__ == "__main__":
    main()
