"""The seal of a folder: checksums (SHA-256) of all its files, so that no damage goes unnoticed.

Orbax loads a checkpoint with flipped bits without an error. The seal is written once a checkpoint
is complete. Any change to any file breaks it, including changes to the seal. `sha256sum --check
SHA256SUMS` reads it.
"""

import hashlib

from apinet_jax.system.paths import AnyPath, files_below, write_atomically

SEAL = "SHA256SUMS"


def write_seal(folder: AnyPath) -> None:
    """Seal the files of a folder.

    Raises:
        RunError: If the seal cannot be written.
    """
    write_atomically(folder / SEAL, _lines_of(_sums(folder)))


def is_sealed(folder: AnyPath) -> bool:
    """Return whether a folder has a seal, broken or not."""
    return (folder / SEAL).exists()


def digest(folder: AnyPath) -> str:
    """Return the SHA-256 of a folder's checksums, which names its content.

    The checksums are those of the seal, which may be broken; without one they are computed.
    """
    sealed = (
        (folder / SEAL).read_bytes() if is_sealed(folder) else _lines_of(_sums(folder)).encode()
    )
    return hashlib.sha256(sealed).hexdigest()


def find_damage(folder: AnyPath, unread: str | None = None) -> str | None:
    """Return what breaks the seal of a sealed folder, or `None` if it is intact.

    Args:
        folder: The folder.
        unread: A folder in it that is not checked, because it will not be read.

    Returns:
        The first file that was changed, removed or added, as in "weights/d/1f has changed".
    """
    sums = _sums(folder, unread)
    sealed = (folder / SEAL).read_bytes()
    lines = [line.partition("  ") for line in sealed.decode(errors="replace").splitlines()]
    before = {name: digest for digest, _, name in lines}
    if sealed != _lines_of(before).encode():
        return f"{SEAL} has changed"
    before = {name: digest for name, digest in before.items() if not _is_below(name, unread)}
    for name in sorted(before.keys() | sums.keys()):
        if name not in sums:
            return f"{name} is missing"
        if name not in before:
            return f"{name} was not there"
        if before[name] != sums[name]:
            return f"{name} has changed"
    return None


def _sums(folder: AnyPath, unread: str | None = None) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder except the seal, by relative path."""
    sums = {}
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if name != SEAL and not _is_below(name, unread):
            with path.open("rb") as file:
                sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _is_below(name: str, folder: str | None) -> bool:
    return folder is not None and name.startswith(f"{folder}/")


def _lines_of(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items())
