"""Stanford Cars, 8,144 training images: the recipe and hardware of configs/cub.py.

python -m apinet_jax.main --config configs/cars.py --config.data.manual_dir=FOLDER \
    --config.model.pretrained=timm:resnet101.tv_in1k --workdir=runs/cars

The data set can no longer be downloaded: the command `python -m apinet_jax prepare cars` says what
to put into FOLDER. Expected: 94.9 % (the paper, ResNet-101); not run by this project.
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "cars"
    return config
