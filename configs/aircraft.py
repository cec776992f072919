"""FGVC-Aircraft by variant, 6,667 training images: the recipe and hardware of configs/cub.py.

python -m apinet_jax.main --config configs/aircraft.py --config.data.manual_dir=FOLDER \
    --config.model.pretrained=timm:resnet101.tv_in1k --workdir=runs/aircraft

FOLDER holds fgvc-aircraft-2013b.tar.gz or the unpacked fgvc-aircraft-2013b; without it, the archive
(2.8 GB) is downloaded. The banner at the bottom of every photo is cut off. Expected: 93.4 % (the
paper, ResNet-101); not run by this project.
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "aircraft"
    return config
