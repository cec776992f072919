"""NABirds, 23,929 training images of 555 classes: the recipe and hardware of configs/cub.py.

python -m apinet_jax.main --config configs/nabirds.py --config.data.manual_dir=FOLDER \
    --config.model.trunk=densenet161 --config.model.pretrained=timm:densenet161.tv_in1k \
    --workdir=runs/nabirds

FOLDER holds nabirds.tar.gz, available on request at https://dl.allaboutbirds.org/nabirds, or the
unpacked nabirds. Expected: 88.1 % (the paper, DenseNet-161); not run by this project.
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "nabirds"
    return config
