"""The demo with held-out images, for both methods: the runs that docs/answers.md scores.

python -m apinet_jax sweep configs/sweeps/answers_birds.py --folder=runs/answers-birds
"""

from apinet_jax.sweeps.spec import Sweep


def get_sweep() -> Sweep:
    return Sweep(
        base="configs/demo.py",
        settings={"data.val_fraction": 0.2},
        cells={"API-Net": {}, "softmax": {"method": "softmax"}},
        reference="softmax",
        seeds=(0, 1, 2),
    )
