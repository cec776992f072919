r"""Gates without the MLP, and API-Net, at half the learning rate of the ablations.

python -m apinet_jax sweep configs/sweeps/half_rate.py --folder=runs/half_rate \
    --set data.dir=$CUB50 --set model.pretrained=$WEIGHTS

The learning rate of the ablations seems to be too high for gates without the MLP. Everything else
is as in configs/sweeps/ablations.py. The sum and the squared difference represent the mutual
vectors without an MLP.
"""

import runpy

from apinet_jax.sweeps.spec import Sweep

CELLS = (
    "API-Net",
    "gates: from each image alone",
    "mutual vector: sum",
    "mutual vector: squared difference",
)


def get_sweep() -> Sweep:
    ablations = runpy.run_path("configs/sweeps/ablations.py")["get_sweep"]()
    return ablations._replace(
        settings={**ablations.settings, "optim.lr": 0.001},
        cells={name: ablations.cells[name] for name in CELLS},
        seeds=(0, 1),
        more_seeds={},
    )
