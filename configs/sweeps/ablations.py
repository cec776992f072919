r"""The paper's ablations, one factor at a time, on the first 50 classes of CUB at 224.

python -m apinet_jax sweep configs/sweeps/ablations.py --folder=runs/ablations \
    --set data.dir=$CUB50 --set model.pretrained=$WEIGHTS

SqueezeNet 1.1 with ImageNet weights, 8 epochs under the complete cosine, the same for all cells. A
run takes about 5 minutes on two CPU cores; the results are in docs/results.md.
"""

from apinet_jax.sweeps.spec import Sweep


def get_sweep() -> Sweep:
    return Sweep(
        base="configs/folder.py",
        settings={
            "model.trunk": "squeezenet1_1",
            "data.resize": 256,
            "data.crop": 224,
            "batch.classes": 15,
            "batch.images": 4,
            "optim.epochs": 8.0,
            "optim.lr": 0.002,
            "optim.frozen_epochs": 1.0,
        },
        cells={
            "API-Net": {},
            "softmax": {"method": "softmax"},
            "softmax, balanced": {"method": "softmax", "batch.sampler": "balanced"},
            "gates: from each image alone": {"model.gates": "alone"},
            "mutual vector: sum": {"model.mutual": "sum"},
            "mutual vector: product": {"model.mutual": "product"},
            "mutual vector: squared difference": {"model.mutual": "sq_difference"},
            "mutual vector: own feature": {"model.mutual": "own"},
            "features: self only": {"model.interaction": "self"},
            "features: other only": {"model.interaction": "other"},
            "without ranking": {"loss.rank_weight": 0.0},
            "ranking margin 0.2": {"loss.rank_margin": 0.2},
            "ranking weight 4": {"loss.rank_weight": 4.0},
            "pairs: intra only": {"pairs.kinds": "intra"},
            "pairs: inter only": {"pairs.kinds": "inter"},
            "pairs: most dissimilar": {"pairs.choice": "dissimilar"},
            "pairs: random": {"pairs.choice": "random"},
            "30 x 2": {"batch.classes": 30, "batch.images": 2},
            "10 x 6": {"batch.classes": 10, "batch.images": 6},
        },
        reference="API-Net",
        seeds=(0, 1),
        # Both methods, and the cells that seem to differ: a verdict takes three seeds.
        more_seeds={
            "API-Net": (2,),
            "softmax": (2,),
            "30 x 2": (2,),
            "10 x 6": (2,),
            "pairs: inter only": (2,),
            "pairs: most dissimilar": (2,),
        },
    )
