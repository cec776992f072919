r"""Photos with held-out images, for both methods: the runs that docs/answers.md scores.

python -m apinet_jax sweep configs/sweeps/answers_photos.py --folder=runs/answers-cub50 \
    --set data.dir=$CUB50 --set model.pretrained=$WEIGHTS

The recipe that configs/sweeps/search.py found best for both methods, with the pairs of the default.
"""

from apinet_jax.sweeps.spec import Sweep


def get_sweep() -> Sweep:
    return Sweep(
        base="configs/folder.py",
        settings={
            "model.trunk": "squeezenet1_1",
            "model.dropout": 0.2,
            "data.resize": 256,
            "data.crop": 224,
            "data.val_fraction": 0.2,
            "data.augmentation": "random_resized",
            "data.min_area": 0.4,
            "batch.classes": 15,
            "batch.images": 4,
            "optim.epochs": 12.0,
            "optim.frozen_epochs": 1.0,
            "optim.lr": 0.002,
            "optim.head_lr_factor": 4.0,
            "optim.weight_decay": 0.002,
        },
        cells={"API-Net": {}, "softmax": {"method": "softmax"}},
        reference="softmax",
        seeds=(0, 1, 2),
    )
