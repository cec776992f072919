"""Your own photos: a folder train/<class>/*, and test/<class>/* (else a fifth is set apart).

python -m apinet_jax.main --config configs/folder.py --config.data.dir=PHOTOS --workdir=runs/x

Open settings are chosen from the photos and the device; each choice is printed with its reason.
Pretrained weights are fetched from the Hugging Face hub, unless --config.model.pretrained names a
file, or `none`.
"""

from apinet_jax.config import folder_config


def get_config(preset: str = "code"):
    return folder_config(preset=preset)
