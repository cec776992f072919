"""Fetches published files: resumes, checks what has come, lets one process do it.

While a file is on its way it is called `NAME.part`. It takes its name when it is whole and has the
published checksum.
"""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import requests
import urllib3

from apinet_jax.system.console import Bar, say
from apinet_jax.system.errors import RunError, explain_failed_writes

_MEGABYTE = 1_000_000
_TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
# Attempts in a row that bring nothing new, and the seconds before another, doubled at each.
_ATTEMPTS = 5
_PAUSE = 1.0
_PART = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Answers of the 400s that say "later", where the others say "no".
_LATER = (408, 425, 429)


class Archive(NamedTuple):
    """A file in which a data set, or a part of it, is published.

    Attributes:
        name: Its name; empty where only the unpacked folder circulates.
        holds: The folder inside it, which unpacking gives; its own name where it is no archive.
        page: Where it is published, for people.
        url: Its address; `None` where it cannot be fetched without asking, or at all.
        size: Bytes of the published file, where they are known; always where there is an address.
        checksum: "ALGORITHM:HEX" of the published file; `None` where nobody publishes one.
        marker: A path below `holds` by which a folder of another name is taken for it.
        needed: `always`; `for boxes`, when images are cropped to them; `if there`.
    """

    name: str
    holds: str
    page: str
    url: str | None = None
    size: int | None = None
    checksum: str | None = None
    marker: str = ""
    needed: Literal["always", "for boxes", "if there"] = "always"


# A `ValueError` is an address that is none, to which the server sent us on.
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)


class _OtherPart(requests.ConnectionError):
    """The server sends another part of the file than it was asked for."""


class _OtherFile(Exception):  # noqa: N818 - a finding
    """The address serves something else than the published file."""


def download(archive: Archive, folder: Path, otherwise: str) -> Path:
    """Fetches an archive, going on from what has come before.

    Args:
        archive: What to fetch; it has an address and a size.
        folder: Where to put it.
        otherwise: How to come by it in another way, for the messages: whole sentences.

    Returns:
        Its path.

    Raises:
        RunError: The address does not answer or serves another file, or the disk has no room.
    """
    target = folder / archive.name
    part = folder / f"{archive.name}.part"
    with explain_failed_writes(part):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(part, target) as file:
        if target.exists():  # another process was quicker
            part.unlink(missing_ok=True)
            return target
        say(f"{archive.name} is not in {folder}: downloading it from {archive.url}.")
        try:
            _fetch(archive, file, folder)
        except _OtherFile as other:
            # What came before is kept: a login page of a network is no reason to lose it.
            if not _length(file):
                part.unlink()
            raise RunError(f"{archive.url} serves another file: {other}. {otherwise}") from other
        except _FAILURES as error:
            kept = (
                f"What has come is kept in {part}; the same command goes on from there. "
                if _length(file)
                else ""
            )
            if not kept:
                part.unlink()
            raise RunError(
                f"Could not download {archive.name} from {archive.url}: {_reason(error)}. "
                f"{kept}{otherwise}"
            ) from error
        if difference := differs(archive, part):
            part.unlink()
            raise RunError(
                f"{archive.url} did not give the published file: {difference}. It was removed; "
                f"run the command again to fetch it anew. {otherwise}"
            )
        part.replace(target)
    return target


def differs(archive: Archive, path: Path) -> str:
    """Says in what a file is not the published one; nothing where it is, or nobody can tell."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"it has {size:,} bytes and not {archive.size:,}"
    if archive.checksum is None:
        return ""
    algorithm, published = archive.checksum.split(":")
    say(f"Checking {archive.name}.")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    if found.hexdigest() == published:
        return ""
    return f"its {algorithm} is {found.hexdigest()} and not {published}"


@contextmanager
def megabytes(title: str, total: int, start: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows a bar in megabytes.

    Args:
        title: What is going on.
        total: Bytes there are.
        start: Bytes that are done.

    Yields:
        What moves the bar to a number of bytes.
    """
    whole, done = max(total // _MEGABYTE, 1), start // _MEGABYTE
    with Bar(f"{title} (MB)", whole, done) as bar:

        def move(position: int) -> None:
            nonlocal done
            while done < min(position // _MEGABYTE, whole):
                bar.advance()
                done += 1

        yield move


@contextmanager
def _alone(part: Path, target: Path) -> Iterator[BinaryIO]:
    """Opens the part for this process alone, after waiting for any other that writes it."""
    while True:
        with explain_failed_writes(part):
            file = open(part, "ab")  # noqa: SIM115 - closed below
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"Another process is downloading {target.name}; waiting for it.")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
            # Meanwhile the other may have finished its part, or removed it: then begin anew.
            if target.exists() or _is_at(file, part):
                yield file
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _fetch(archive: Archive, file: BinaryIO, folder: Path) -> None:
    """Receives until the file has its size, over as many connections as it takes.

    Raises:
        requests.RequestException: The last of several attempts failed, or one for good; also as
            another of `_FAILURES`.
        _OtherFile: The address serves another file.
        RunError: The disk has no room.
    """
    if (have := _length(file)) > archive.size:
        file.truncate(have := 0)
    free = shutil.disk_usage(folder).free
    if free < archive.size - have:
        raise RunError(
            f"{folder} has {free / 1e9:.1f} GB free; {archive.name} needs "
            f"{(archive.size - have) / 1e9:.1f} GB more. Free some space, or name another folder."
        )
    failures, resume = 0, True
    with (
        requests.Session() as session,
        megabytes(f"Downloading {archive.name}", archive.size, have) as move,
    ):
        while (have := _length(file)) < archive.size:
            try:
                _receive(session, archive, file, move, resume)
                failures = 0
            except _FAILURES as error:
                failures = 0 if _length(file) > have else failures + 1
                resume = resume and not isinstance(error, _OtherPart)
                if failures == _ATTEMPTS or _is_final(error):
                    raise
                say(f"Interrupted ({_reason(error)}); going on.")
                time.sleep(_PAUSE * 2**failures)


def _receive(
    session: requests.Session,
    archive: Archive,
    file: BinaryIO,
    move: Callable[[int], None],
    resume: bool,
) -> None:
    """Receives what is missing, or as much of it as is sent, over one connection."""
    have = _length(file) if resume else 0
    # No encoding: what is hashed and resumed are the bytes of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(archive.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            raise _OtherFile(f"a shorter one than the {archive.size:,} bytes that are published")
        response.raise_for_status()
        start, end, total = _offered(response, archive, have)
        if total != archive.size:
            raise _OtherFile(f"{total:,} bytes, where {archive.size:,} are published")
        for index, block in enumerate(response.raw.stream(_MEGABYTE, decode_content=False)):
            if index == 0:  # not before there is something in place of what was there
                file.truncate(start)
            if _length(file) + len(block) > archive.size:
                raise _OtherFile(f"more than the {archive.size:,} bytes that are published")
            with explain_failed_writes(file.name):
                file.write(block)
                file.flush()
            move(_length(file))
    # An answer may end before the file does, but not before it has brought anything.
    if _length(file) < max(end, start + 1):
        raise requests.ConnectionError("the connection ended early")


def _offered(response: requests.Response, archive: Archive, have: int) -> tuple[int, int, int]:
    """Returns where an answer starts and ends, and how many bytes the whole file has.

    Raises:
        _OtherPart: It starts elsewhere than behind what is there.
    """
    length = response.headers.get("Content-Length", "")
    if not have or response.status_code != requests.codes.partial_content:  # it sends the whole
        total = int(length) if length.isdecimal() else archive.size
        return 0, total, total
    part = _PART.fullmatch(response.headers.get("Content-Range", ""))
    if part is None:
        end = have + int(length) if length.isdecimal() else archive.size
        return have, end, max(end, archive.size)
    start, last, total = part.groups()
    if int(start) != have:
        raise _OtherPart(f"the server sends what begins at byte {start} when asked for {have}")
    return have, int(last) + 1, archive.size if total == "*" else int(total)


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _is_final(error: Exception) -> bool:
    """Whether another attempt is in vain."""
    if isinstance(error, ValueError):
        return True
    response = getattr(error, "response", None)
    return (
        response is not None and response.status_code < 500 and response.status_code not in _LATER
    )


def _reason(error: Exception) -> str:
    if getattr(error, "response", None) is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    # What is wrong stands at the end, behind the libraries that handed it on.
    while error.args and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__
