"""CUB-200-2011 with the authors' recipe: ResNet-101 at 448, 30 x 4 images, 100 epochs.

python -m apinet_jax.main --config configs/cub.py --config.data.manual_dir=FOLDER \
    --config.model.pretrained=timm:resnet101.tv_in1k --workdir=runs/cub

FOLDER holds CUB_200_2011.tgz or the unpacked CUB_200_2011; without it, the archive (1.2 GB) is
downloaded. Hardware: one or more large GPUs, or a TPU slice. The memory of a step is printed before
the first one; --config.model.dtype=bfloat16 needs about half. Expected: 88.6 % (the paper), 86.8 to
87.9 % (reproductions by others; docs/results.md); not run by this project. The preset :paper
follows the text of the paper where the authors' program differs.
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "cub"
    return config
