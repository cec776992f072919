"""Where runs and data lie: on a disk, or in a bucket of Google Cloud Storage (`gs://BUCKET/...`).

A path on a disk is pathlib's, one in a bucket epath's, which has the same methods as far as both
can do the same. What a bucket cannot do, or does in another way, is here.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from apinet_jax.system.errors import InputError, explain_failed_writes, first_line

AnyPath = Path | epath.Path

_BUCKETS = "gs://"
_INSTALL = 'pip install "apinet_jax[gcs]"'


def is_remote(path: AnyPath | str) -> bool:
    """Whether a path lies in a bucket."""
    return str(path).startswith(_BUCKETS)


def to_path(text: AnyPath | str) -> AnyPath:
    """The path that a user named, with the home folder in the place of `~`.

    Raises:
        InputError: If it is an address that is not understood, or what reads it is not installed.
    """
    if not is_remote(text):
        return local_path(text)
    if not str(text).removeprefix(_BUCKETS).strip("/"):
        raise InputError(f"{text} names no bucket. Name one, as in {_BUCKETS}BUCKET/runs/x.")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(
            f"{text} lies in a bucket, and what reads those is not installed: {_INSTALL}"
        )
    _configure_backend()
    return epath.Path(text)


def local_path(text: AnyPath | str) -> Path:
    """The path that a user named, where it can only be one on a disk.

    Raises:
        InputError: If it is an address.
    """
    if "://" in str(text):
        raise InputError(
            f"{text} does not lie on a disk. Name a folder or file of this machine; --workdir, "
            f"data.dir, data.manual_dir and model.pretrained may also begin with {_BUCKETS}."
        )
    return Path(text).expanduser()


def absolute_path(path: AnyPath | str) -> AnyPath:
    """The path from the root, with the home folder in the place of `~`."""
    path = to_path(path)
    return path if is_remote(path) else path.absolute()


def records_root() -> Path:
    """TFDS's own folder of prepared records: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
        InputError: If it is no folder of a disk: array_record reads from nowhere else.
    """
    return local_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def check_bucket(path: AnyPath) -> None:
    """Looks whether the bucket of a path is there and may be read; paths on disks pass.

    Raises:
        InputError: If not.
    """
    if is_remote(path):
        with explain_bucket_errors(path):
            there = path.exists() or epath.Path(_BUCKETS + path.parts[2]).exists()
        if not there:
            raise InputError(f"There is no bucket {_BUCKETS}{path.parts[2]}, or not for you.")


def check_writable(workdir: AnyPath) -> None:
    """Looks whether a run may write to a workdir and delete there.

    Raises:
        InputError: If not.
    """
    if is_remote(workdir):
        check_bucket(workdir)
        with explain_bucket_errors(workdir):
            (workdir / ".writable").write_bytes(b"")
            (workdir / ".writable").unlink()
        return
    there = next(place for place in (workdir, *workdir.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "may not be written to" if there.is_dir() else "is not a folder"
        raise InputError(f"The workdir {workdir} cannot be used: {there} {reason}. Choose another.")


@contextmanager
def explain_bucket_errors(path: AnyPath | str) -> Iterator[None]:
    """Lets a bucket that cannot be used end in one message, whatever library found that out.

    Raises:
        InputError: Instead of its error, whose first line it quotes.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise InputError(
            f"{path} cannot be used ({first_line(error)}). Check the name of the bucket, the "
            "credentials (gcloud auth application-default login), and that these may get the "
            "bucket and read, write and delete its objects."
        ) from error


def write_atomically(path: AnyPath, text: str) -> None:
    """Replaces a file as a whole: a reader, or a kill, meets the old text or the new.

    Raises:
        RunError: If the disk does not take it.
    """
    with explain_failed_writes(path):
        if is_remote(path):  # an object appears as a whole
            path.write_text(text)
            return
        part = path.with_suffix(path.suffix + ".part")
        with open(part, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def files_below(folder: AnyPath) -> list[AnyPath]:
    """Every file below a folder, in the order of their paths."""
    if is_remote(folder):
        return [folder.joinpath(name) for name in sorted(objects_below(folder))]
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def objects_below(folder: AnyPath, part: str = "") -> dict[str, dict[str, Any]]:
    """What a bucket says of every object below a folder, by its path there: one request.

    Args:
        folder: The folder, in a bucket.
        part: The name of a file or folder in it, to be told of that alone.
    """
    system, root = file_system(folder)
    found = system.find(f"{root}/{part}".rstrip("/"), detail=True)
    return {name.removeprefix(f"{root}/"): about for name, about in found.items()}


def file_system(path: AnyPath) -> tuple[Any, str]:
    """The file system of a path in a bucket, and what that calls the path."""
    import fsspec

    return fsspec.core.url_to_fs(str(path))


def remove_folder(folder: AnyPath) -> None:
    """Removes a folder and all that is in it."""
    if is_remote(folder):
        folder.rmtree()
    else:
        shutil.rmtree(folder)


def move_folder(folder: AnyPath, target: AnyPath) -> None:
    """Gives a folder another place, where nothing is yet.

    In a bucket each object is copied first and the old ones are deleted then, so a kill in between
    loses nothing.
    """
    if not is_remote(folder):
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        return
    system, root = file_system(folder)
    for name in objects_below(folder):
        system.cp_file(f"{root}/{name}", file_system(target / name)[1])
    folder.rmtree()


def _configure_backend() -> None:
    """Has epath ask the bucket itself each time, and not TensorFlow where that is installed."""
    import fsspec

    for library in ("gcsfs", "google.auth"):  # what they log is told once more, by the error
        logging.getLogger(library).setLevel(logging.CRITICAL)
    os.environ["EPATH_USE_TF"] = "false"
    # Other processes write there too: what was listed a while ago is no answer.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
