"""Stanford Dogs, 12,000 training images: the recipe and hardware of configs/cub.py.

python -m apinet_jax.main --config configs/dogs.py --config.data.manual_dir=FOLDER \
    --config.model.pretrained=timm:resnet101.tv_in1k --workdir=runs/dogs

FOLDER holds images.tar and lists.tar, or their unpacked contents; without it, both (0.8 GB) are
downloaded. The photos are a part of ImageNet, so weights trained on ImageNet may have seen test
images. Expected: 90.3 % (the paper, ResNet-101); not run by this project.
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "dogs"
    return config
