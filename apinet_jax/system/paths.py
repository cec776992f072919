"""Paths of runs and data: on a disk, or in a bucket of Google Cloud Storage (`gs://BUCKET/...`).

A path on a disk is pathlib's, a path in a bucket epath's, with the same methods. What a bucket
cannot do, or does in another way, is here.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from apinet_jax.system.errors import InputError, RunError, explain_failed_writes, first_line

AnyPath = Path | epath.Path

_BUCKETS = "gs://"
_INSTALL = 'pip install "apinet_jax[gcs]"'


def is_remote(path: AnyPath | str) -> bool:
    """Return whether a path is in a bucket."""
    return str(path).startswith(_BUCKETS)


def to_path(text: AnyPath | str) -> AnyPath:
    """Return the path that a user named, with `~` replaced by the home folder.

    Raises:
        InputError: If there is no such home folder, the address is of an unknown kind, or the
            package that reads it is not installed.
    """
    if not is_remote(text):
        return local_path(text)
    if not str(text).removeprefix(_BUCKETS).strip("/"):
        raise InputError(f"{text} names no bucket. Name one, as in {_BUCKETS}BUCKET/runs/x.")
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(
            f"{text} is in a bucket, and the package that reads it is not installed: {_INSTALL}"
        )
    _configure_backend()
    return epath.Path(text)


def local_path(text: AnyPath | str) -> Path:
    """Return the path that a user named, where only a disk will do, with `~` replaced.

    Raises:
        InputError: If it is an address, or there is no such home folder.
    """
    if "://" in str(text):
        raise InputError(
            f"{text} is not on a disk. Name a folder or file of this machine; the workdir, "
            f"data.dir, data.manual_dir and model.pretrained may also begin with {_BUCKETS}."
        )
    path = os.path.expanduser(text)
    if path.startswith("~"):  # an unknown user, or one without HOME, as in containers
        raise InputError(
            f"{text} needs the home folder {Path(path).parts[0]}, and this machine has none. Name "
            "the folder in full, or set HOME."
        )
    return Path(path)


def absolute_path(path: AnyPath | str) -> AnyPath:
    """Return the path from the root, with `~` replaced by the home folder."""
    path = to_path(path)
    return path if is_remote(path) else path.absolute()


def records_root() -> Path:
    """Return TFDS's folder of prepared records: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.

    Raises:
        InputError: If it is not on a disk, the only place that array_record reads, or if there is
            no home folder.
    """
    if named := os.environ.get("TFDS_DATA_DIR"):
        return local_path(named)
    try:
        return local_path("~/tensorflow_datasets")
    except InputError as error:
        raise InputError(
            "There is no home folder for the prepared records. Set TFDS_DATA_DIR to a folder."
        ) from error


def check_bucket(path: AnyPath) -> None:
    """Check that the bucket of a path exists and may be read; paths on disks pass.

    Raises:
        InputError: If not.
    """
    if is_remote(path):
        with explain_bucket_errors(path):
            exists = path.exists() or epath.Path(_BUCKETS + path.parts[2]).exists()
        if not exists:
            raise InputError(
                f"There is no bucket {_BUCKETS}{path.parts[2]}, or your account may not see it."
            )


def check_writable(workdir: AnyPath) -> None:
    """Check that a run may write and delete in a workdir.

    Raises:
        InputError: If not.
    """
    check_characters(workdir)
    if is_remote(workdir):
        check_bucket(workdir)
        with explain_bucket_errors(workdir):
            (workdir / ".writable").write_bytes(b"")
            (workdir / ".writable").unlink()
        return
    place = next(place for place in (workdir, *workdir.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = "may not be written to" if place.is_dir() else "is not a folder"
        raise InputError(f"The workdir {workdir} cannot be used: {place} {reason}. Choose another.")


def check_characters(folder: AnyPath) -> None:
    """Check that checkpoints can be stored below a folder, whatever its parents are called.

    Raises:
        InputError: If tensorstore cannot use a character of the path.
    """
    path = os.fsencode(folder if is_remote(folder) else folder.absolute())
    reserved = b"?#" if is_remote(folder) else b"\\"
    reason = None
    if found := [chr(byte) for byte in path if byte in reserved]:
        reason = f"has the character {found[0]}, which tensorstore takes for a separator"
    try:
        path.decode()
    except UnicodeDecodeError:
        reason = "is not valid UTF-8"
    if reason:
        shown = path.decode(errors="backslashreplace")
        raise InputError(f"{shown} {reason}: no checkpoint can be stored there. Rename the folder.")


@contextmanager
def explain_bucket_errors(path: AnyPath | str) -> Iterator[None]:
    """Turn any library's error about a bucket into one message.

    Raises:
        InputError: Instead of that error, whose first line it quotes.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise InputError(
            f"{path} cannot be used ({first_line(error)}). Check the name of the bucket, the "
            "credentials (gcloud auth application-default login), and their permissions: to get "
            "the bucket, and to read, write and delete its objects."
        ) from error


def write_atomically(path: AnyPath, content: str | bytes) -> None:
    """Replace a file by an atomic rename: a reader, or a kill, finds the old content or the new.

    Raises:
        RunError: If it cannot be written.
    """
    with explain_failed_writes(path):
        if is_remote(path):  # objects are replaced atomically
            write = path.write_text if isinstance(content, str) else path.write_bytes
            write(content)
            return
        part = path.with_suffix(path.suffix + ".part")
        with open(part, "w" if isinstance(content, str) else "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def files_below(folder: AnyPath) -> list[AnyPath]:
    """Return every file below a folder, sorted by path."""
    if is_remote(folder):
        return [folder.joinpath(name) for name in sorted(objects_below(folder))]
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def objects_below(folder: AnyPath, part: str = "") -> dict[str, dict[str, Any]]:
    """Return the attributes of every object below a folder in a bucket, by path: one request.

    Args:
        folder: The folder.
        part: A file or folder in it, to list only that.
    """
    system, root = file_system(folder)
    found = system.find(f"{root}/{part}".rstrip("/"), detail=True)
    return {name.removeprefix(f"{root}/"): about for name, about in found.items()}


def file_system(path: AnyPath) -> tuple[Any, str]:
    """Return the file system of a path in a bucket, and its name for the path."""
    import fsspec

    return fsspec.core.url_to_fs(str(path))


def remove_folder(folder: AnyPath) -> None:
    """Remove a folder with its content."""
    epath.Path(folder).rmtree()


def move_folder(folder: AnyPath, target: AnyPath) -> None:
    """Move a folder to a target that does not exist.

    In a bucket all objects are copied before the old ones are deleted, so a kill loses nothing.
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
    """Let epath ask the bucket each time, and never through TensorFlow."""
    import fsspec

    for library in ("gcsfs", "google.auth"):  # they log what their errors say
        logging.getLogger(library).setLevel(logging.CRITICAL)
    os.environ["EPATH_USE_TF"] = "false"
    # Other processes write there too, so an earlier listing may be out of date.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
