"""Your own photos: a folder train/<class>/*, and test/<class>/* (else a fifth is set apart).

python -m apinet_jax.main --config configs/folder.py --config.data.dir=PHOTOS --workdir=runs/x

Settings that are None are chosen from the photos and the device; each choice is printed with its
reason. Pretrained weights help a lot: --config.model.pretrained=timm:resnet50.tv_in1k, or a file.
"""

from apinet_jax.config import default_config


def get_config(preset: str = "code"):
    config = default_config(preset)
    config.data.name = "folder"
    config.data.resize = config.data.crop = config.data.cache = None
    config.batch.classes = config.batch.images = None
    config.model.trunk = config.model.dtype = config.model.remat = None
    config.optim.lr = config.optim.frozen_epochs = None
    config.train.microbatches = config.eval.batch_size = None
    return config
