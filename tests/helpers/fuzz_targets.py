"""Parsers of untrusted files, and the valid files that are damaged."""

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import ml_dtypes
import numpy as np
from fuzz_inputs import Seed, gzipped, png_checksums, sized, tar_checksums
from numeric import named_tensor
from PIL import Image
from safetensors.numpy import save
from small_archives import cub_path, jpeg, put_cub, put_files

from apinet_jax.commands.convert import _read_file
from apinet_jax.data import decoding
from apinet_jax.data.official import archive as archives
from apinet_jax.data.official import mat
from apinet_jax.data.official.aircraft import Aircraft
from apinet_jax.data.official.cars import Cars
from apinet_jax.data.official.cub import Cub
from apinet_jax.data.official.dogs import Dogs
from apinet_jax.data.official.download import Archive
from apinet_jax.data.official.nabirds import Nabirds
from apinet_jax.data.records import scan as scans
from apinet_jax.data.transforms import resize
from apinet_jax.models import TRUNKS, variable_shapes
from apinet_jax.models.weights import recognise
from apinet_jax.models.weights.hub import find_pretrained
from apinet_jax.models.weights.torch_names import torch_shapes
from apinet_jax.system.errors import InputError, RunError
from apinet_jax.workdir.seal import SEAL, find_damage, write_seal

SECRET = jpeg(7, size=(33, 17))
_MAT_HEADER = b"MATLAB 5.0 MAT-file"
SECRET_DIGEST = hashlib.sha256(SECRET).hexdigest()


class Target(NamedTuple):
    """A parser.

    Attributes:
        seeds: Valid files; the first of each name stays intact while another is damaged.
        read: Reads the folder.
        refusals: Exceptions that refuse a file.
    """

    seeds: Sequence[Seed]
    read: Callable[[], object]
    refusals: tuple[type[Exception], ...] = (InputError, RunError)

    def put(self, folder: Path) -> None:
        """Write the valid files."""
        for seed in reversed(self.seeds):
            put_files(folder, {seed.name: seed.finish(seed.content)})


def image(folder):
    path = folder / "image"

    def saved(mode, file_format, **options):
        stream = io.BytesIO()
        Image.linear_gradient("L").resize((24, 18)).convert(mode).save(
            stream, file_format, **options
        )
        return stream.getvalue()

    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    pngs = [
        saved("RGB", "PNG"),
        saved("RGBA", "PNG", exif=exif),
        saved("P", "PNG", transparency=3),
        saved("I;16", "PNG"),
        saved("1", "PNG"),
        saved("LA", "PNG", icc_profile=b"profile" * 9),
    ]
    frames = [Image.new("RGBA", (24, 18), colour) for colour in ("red", "blue")]
    others = [
        saved("RGB", "JPEG", exif=exif),
        saved("L", "JPEG", progressive=True, icc_profile=b"profile" * 9),
        saved("CMYK", "JPEG"),
        saved("RGB", "WEBP", exif=exif),
        saved("RGBA", "WEBP", lossless=True),
        saved("RGBA", "WEBP", save_all=True, append_images=frames),
        saved("RGB", "PNG", save_all=True, append_images=frames),
    ]
    seeds = [Seed("image", content, png_checksums) for content in pngs]
    seeds += [Seed("image", content) for content in (*others, *pngs[:2])]

    def read():
        data = path.read_bytes()
        resize(decoding.decode(data), 8)
        decoding.stored_size(data)

    return Target(seeds, read, (ValueError,))


def weights(folder):
    shapes = torch_shapes(variable_shapes("resnet10_w16"))
    names = {"layer1.0.conv1.weight": (2, 3), "fc.bias": (3,), "num_batches_tracked": ()}
    kinds = (np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, bool)
    mixed = {
        f"{number}.{name}": np.ones(shape, kind)
        for number, kind in enumerate(kinds)
        for name, shape in names.items()
    }
    authors = {
        "module.conv.module.0.weight": np.ones((2, 3), np.float32),
        "module.conv.module.4.0.bn1.weight": np.ones(2, np.float32),
        "module.map1.bias": np.ones(3, np.float32),
    }
    whole = {name: named_tensor(name, shape) for name, shape in shapes.items()}
    contents = [save(tensors) for tensors in (mixed, authors, whole)]
    # The header is small compared with the numbers, so it is damaged twice as often.
    heads = [content[: content.find(b"}}") + 100] for content in contents]
    about = {
        "architecture": "resnet10",
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [3, 224, 224]},
    }
    seeds = [Seed("w.safetensors", contents[2])]
    seeds += [Seed("w.safetensors", content, sized) for content in (*contents[:2], *heads)]
    seeds += [Seed("w.safetensors", content) for content in contents[:2]]
    seeds += [Seed("w.json", json.dumps(about).encode()), Seed("w.json", b'{"std": [0.1, 0.1, 1]}')]

    # Computing the shapes of all trunks takes ten seconds.
    few = {name: TRUNKS[name] for name in ("resnet10_w16", "squeezenet1_1")}

    def read():
        find_pretrained(str(folder / "w.safetensors"))
        with mock.patch.multiple(recognise, TRUNKS=few, LISTED_TRUNKS=tuple(few)):
            _read_file(folder / "w.safetensors", None)

    return Target(seeds, read)


def seal(folder):
    put_files(folder / "sealed", {"weights/d/1": b"1", "weights/_METADATA": b"{}"})
    write_seal(folder / "sealed")
    seeds = [Seed(f"sealed/{SEAL}", (folder / "sealed" / SEAL).read_bytes())]

    def read():
        if damage := find_damage(folder / "sealed"):
            raise InputError(damage)

    return Target(seeds, read)


def _lists(folder, builder, *pieces):
    """Return a function that reads the lists of a builder and every image in them."""

    def read():
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(mat, "_run", _printed))
            files = {
                piece: stack.enter_context(
                    archives.open_files(Archive("", piece, "page"), folder / piece, folder)
                )
                for piece in pieces
            }
            scan = builder.read(files)._replace(need_boxes=True)
            for entry in scan.entries:
                assert scans._checked(scan, entry)[1] != SECRET_DIGEST

    return read


def _texts(folder, *names):
    return [Seed(name, (folder / name).read_bytes()) for name in names]


def cub(folder):
    put_cub(folder)
    names = ("classes", "images", "image_class_labels", "train_test_split", "bounding_boxes")
    seeds = _texts(folder, *(f"CUB_200_2011/{name}.txt" for name in names))
    return Target(seeds, _lists(folder, Cub, "CUB_200_2011"))


def nabirds(folder):
    put_cub(folder)
    (folder / "CUB_200_2011").rename(folder / "nabirds")
    for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes"):
        path = folder / f"nabirds/{name}.txt"
        path.write_text("".join(f"0b9f-{line}\n" for line in path.read_text().splitlines()))
    names = ("classes", "images", "image_class_labels", "train_test_split", "bounding_boxes")
    seeds = _texts(folder, *(f"nabirds/{name}.txt" for name in names))
    return Target(seeds, _lists(folder, Nabirds, "nabirds"))


def aircraft(folder):
    images = {"0034309": "C-130", "0698580": "707-320", "0894380": "707-320"}
    lists = {
        "variants.txt": ["707-320", "C-130"],
        "images_variant_trainval.txt": [f"{name} {images[name]}" for name in list(images)[:2]],
        "images_variant_test.txt": [f"{name} {images[name]}" for name in list(images)[2:]],
        "images_box.txt": [f"{name} 9 5 40 28" for name in images],
    }
    pictures = {f"images/{name}.jpg": jpeg(1, (64, 48)) for name in images}
    put_files(folder / "fgvc-aircraft-2013b/data", lists | pictures)
    seeds = _texts(folder, *(f"fgvc-aircraft-2013b/data/{name}" for name in lists))
    return Target(seeds, _lists(folder, Aircraft, "fgvc-aircraft-2013b"))


def _mat(name, **variables):
    """What `mat_process.py` prints of a MATLAB file: only that process sees damage in its bytes."""
    return Seed(name, json.dumps(variables).encode(), lambda content: _MAT_HEADER + content)


def _printed(data, variables):
    found = json.loads(data.removeprefix(_MAT_HEADER))
    if not isinstance(found, dict):
        raise ValueError("the process prints variables by their names")
    return json.dumps({name: found[name] for name in found if isinstance(found[name], list)})


def cars(folder):
    box = {"bbox_x1": 2, "bbox_y1": 1, "bbox_x2": 8, "bbox_y2": 5}
    annos = [{**box, "class": label, "fname": f"{label:05d}.jpg"} for label in (1, 2)]
    pictures = {
        f"cars_{split}/{label:05d}.jpg": jpeg(label)
        for split in ("train", "test")
        for label in (1, 2)
    }
    put_files(folder, pictures)
    seeds = [
        _mat("devkit/cars_meta.mat", class_names=["Acura", "Ram C/V"]),
        _mat("devkit/cars_train_annos.mat", annotations=annos),
        _mat("devkit/cars_test_annos_withlabels.mat", annotations=annos),
    ]
    return Target(seeds, _lists(folder, Cars, "cars_train", "cars_test", "devkit"))


def dogs(folder):
    breeds = ("n02085620-Chihuahua", "n02088094-Afghan_hound")
    box = b"<bndbox>\n<xmin>2</xmin>\n<ymin>1</ymin>\n<xmax>7</xmax>\n<ymax>6</ymax>\n</bndbox>"
    seeds = []
    for split, numbers in (("train", (1, 2)), ("test", (3, 4))):
        stems = [f"{breed}/{breed.split('-')[0]}_{n}" for breed in breeds for n in numbers]
        put_files(
            folder / "Images", {f"{stem}.jpg": jpeg(number) for number, stem in enumerate(stems)}
        )
        put_files(folder / "Annotation", dict.fromkeys(stems, box))
        paths = [f"{stem}.jpg" for stem in stems]
        seeds.append(_mat(f"lists/{split}_list.mat", file_list=paths, labels=[1, 1, 2, 2]))
        seeds += [Seed(f"Annotation/{stems[0]}", box * 2)]
    return Target(seeds, _lists(folder, Dogs, "Images", "lists", "Annotation"))


def archive(folder):
    """Archives in all formats of tar; one member is a link to a file outside."""
    link = tarfile.TarInfo(f"CUB_200_2011/images/{cub_path(5, 3)}")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../../outside/secret.jpg"
    plain = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
            for name in ("classes.txt", f"images/{cub_path(1, 1)}", f"{'long/' * 19}é.jpg"):
                member = tarfile.TarInfo(f"CUB_200_2011/{name}")
                member.size, member.mtime = 9, 0.5
                tar.addfile(member, io.BytesIO(b"123456789"))
            tar.addfile(link)
        plain.append(stream.getvalue()[: -10240 + 3072])
    names = ("classes.txt", f"images/{cub_path(1, 1)}", f"images/{cub_path(5, 3)}")
    seeds = [Seed("a.tar", content, tar_checksums) for content in plain]
    seeds += [Seed("b.tgz", content, gzipped) for content in plain]
    seeds += [Seed("b.tgz", gzipped(plain[2])), Seed("a.tar", plain[2])]

    def read():
        for place in ("a.tar", "b.tgz"):
            opened = archives.open_files(
                Archive(place, "CUB_200_2011", "page"), folder / place, folder
            )
            with opened as files:
                for name in filter(files.has, names):
                    assert len(files.read(name)) <= archives._MAX_FILE
                    assert files.read(name) != SECRET

    return Target(seeds, read)


TARGETS = (
    image,
    weights,
    seal,
    cub,
    nabirds,
    aircraft,
    cars,
    dogs,
    archive,
)
