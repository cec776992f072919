"""The seal of a folder: the SHA-256 of every file in it, so that no damage goes unnoticed.

Orbax reads a checkpoint with flipped bits without a word. A seal is written once the checkpoint is
complete and is broken by any change to any file, its own included. Its lines are those that
`sha256sum --check SHA256SUMS` reads.
"""

import hashlib

from apinet_jax.system.paths import AnyPath, files_below, write_atomically

SEAL = "SHA256SUMS"


def write_seal(folder: AnyPath) -> None:
    """Seals the files that are there now.

    Raises:
        RunError: If the disk does not take it.
    """
    write_atomically(folder / SEAL, _lines_of(_sums(folder)))


def is_sealed(folder: AnyPath) -> bool:
    """Whether there is a seal, broken or not."""
    return (folder / SEAL).exists()


def find_damage(folder: AnyPath, unread: str | None = None) -> str | None:
    """What breaks the seal of a sealed folder, or `None` if nothing does.

    Args:
        folder: The folder.
        unread: A folder in it that may look as it likes, as nobody is about to read it.

    Returns:
        The first file that was changed, taken away or added, as in "weights/d/1f has changed".
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
    """The SHA-256 of every file below a folder but the seal, by its path there."""
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
