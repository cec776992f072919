"""Your own photos: a folder train/<class>/*, and test/<class>/* (else a fifth is set apart).

python -m apinet_jax.main --config configs/folder.py --config.data.dir=PHOTOS --workdir=runs/x

Open settings are chosen from the photos and the device; each choice is printed with its reason.
Pretrained weights help a lot: --config.model.pretrained=timm:resnet50.tv_in1k, or a file.
"""

from apinet_jax.config import folder_config


def get_config(preset: str = "code"):
    return folder_config(preset=preset)
