r"""A hundred heads on the cached features of a frozen trunk, API-Net and softmax alike.

python -m apinet_jax sweep configs/sweeps/heads.py --folder=runs/heads \
    --set data.dir=PHOTOS --set model.pretrained=FILE

A fifth of the training images of each class is held out, and chooses. The trunk runs once over each
image, before the first head.
"""

from itertools import product

from apinet_jax.sweeps.spec import Sweep

METHODS = {"API-Net": "apinet", "softmax": "softmax"}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
DROPOUTS = (0.0, 0.2, 0.5, 0.7, 0.8)
DECAYS = (5e-4, 5e-3)


def get_sweep() -> Sweep:
    cells = {
        f"{title}, lr {rate:g}, dropout {dropout:g}, decay {decay:g}": {
            "method": method,
            "optim.lr": rate,
            "model.dropout": dropout,
            "optim.weight_decay": decay,
        }
        for (title, method), rate, dropout, decay in product(
            METHODS.items(), RATES, DROPOUTS, DECAYS
        )
    }
    return Sweep(
        base="configs/folder.py",
        settings={"train.features": "cache", "optim.epochs": 20.0, "data.val_fraction": 0.2},
        cells=cells,
        reference="softmax, lr 0.03, dropout 0.5, decay 0.0005",
        seeds=(100,),
        metric="validation",
    )
