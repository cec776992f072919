"""Downloads of published files: resumed, checked, and made by one process at a time.

An incomplete file is called `NAME.part`. It is renamed once it has the published size and checksum.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import requests
import urllib3
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter

from apinet_jax.system.console import Bar, say
from apinet_jax.system.errors import RunError, explain_failed_writes

_MEGABYTE = 1_000_000
_TIMEOUT = (20, 60)  # seconds to connect, and between two blocks
# Connections in a row without progress, and the pause before the next one, which doubles.
_ATTEMPTS = 5
_PAUSE = 1.0
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)


class Archive(NamedTuple):
    """A file in which a data set, or a part of it, is published.

    Attributes:
        name: Its name; empty if only the unpacked folder circulates.
        holds: The folder inside it, which unpacking gives; its own name if it is not an archive.
        page: Where it is published, for people.
        url: Its address; `None` if it cannot be downloaded, or not without accepting terms.
        size: Bytes of the published file, if known; always known if there is an address.
        checksum: "ALGORITHM:HEX" of the published file; `None` if nobody publishes one.
        marker: A path below `holds` that identifies an unpacked folder of another name.
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


class _OtherFileError(Exception):
    """The address serves another file than the published one."""


def download(archive: Archive, folder: Path, alternative: str) -> Path:
    """Download an archive, resuming from what an earlier attempt received.

    Args:
        archive: What to download; it has an address and a size.
        folder: Where to put it.
        alternative: Another way to get it, for messages: complete sentences.

    Returns:
        Its path.

    Raises:
        RunError: The address does not answer or serves another file, or the disk is full.
    """
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    with explain_failed_writes(part):
        folder.mkdir(parents=True, exist_ok=True)
    with _only_one_process(target):
        if target.exists():  # another process was faster
            return target
        say(f"{archive.name} is not in {folder}: downloading it from {archive.url}.")
        with explain_failed_writes(part):
            file = open(part, "ab")  # noqa: SIM115 - closed below
        try:
            with file:
                _fetch(archive, file, folder)
        except _OtherFileError as error:
            raise RunError(f"{archive.url} serves another file: {error}. {alternative}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # A ValueError is an invalid address, to which the server redirected.
            kept = f"What was received is kept in {part}; the same command resumes. "
            raise RunError(
                f"Could not download {archive.name} from {archive.url}: {_reason(error)}. "
                f"{kept if part.stat().st_size else ''}{alternative}"
            ) from error
        finally:
            if not part.stat().st_size:
                part.unlink()
        if difference := differs(archive, part):
            part.unlink()
            raise RunError(
                f"{archive.url} did not serve the published file: {difference}. It was removed; "
                f"run the command again to download it again. {alternative}"
            )
        part.replace(target)
    return target


def differs(archive: Archive, path: Path) -> str:
    """Return how a file differs from the published one; empty if it does not, or if unknown."""
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
def megabyte_bar(title: str, total: int, start: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in megabytes; yields a function that moves it to a number of bytes."""
    megabytes, done = max(total // _MEGABYTE, 1), start // _MEGABYTE
    with Bar(f"{title} (MB)", megabytes, done) as bar:

        def advance_to(position: int) -> None:
            nonlocal done
            while done < min(position // _MEGABYTE, megabytes):
                bar.advance()
                done += 1

        yield advance_to


@contextmanager
def _only_one_process(target: Path) -> Iterator[None]:
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"Another process is downloading {target.name}; waiting for it.")
        lock.acquire()
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # a process that waits makes another one
        lock.release()


def _fetch(archive: Archive, file: BinaryIO, folder: Path) -> None:
    """Receive the rest of a file, over as many connections as necessary."""
    if file.tell() > archive.size:
        _empty(file)
    missing, free = archive.size - file.tell(), shutil.disk_usage(folder).free
    if free < missing:
        raise RunError(
            f"{folder} has {free / 1e9:.1f} GB free; {archive.name} needs {missing / 1e9:.1f} GB "
            "more. Free some space, or name another folder."
        )
    retry = urllib3.Retry(
        _ATTEMPTS - 1,
        backoff_factor=_PAUSE,
        status_forcelist=_TEMPORARY,
        raise_on_status=False,
        respect_retry_after_header=False,  # it may name hours
    )
    failures = 0
    with (
        requests.Session() as session,
        megabyte_bar(f"Downloading {archive.name}", archive.size, file.tell()) as advance_to,
    ):
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        while (have := file.tell()) < archive.size:
            try:
                _receive(session, archive, file, advance_to)
            except urllib3.exceptions.HTTPError as error:  # cut after the headers: no Retry
                failures = 0 if file.tell() > have else failures + 1
                if failures == _ATTEMPTS:
                    raise
                say(f"Interrupted ({_reason(error)}); resuming.")
                time.sleep(_PAUSE * 2**failures)


def _receive(
    session: requests.Session, archive: Archive, file: BinaryIO, advance_to: Callable[[int], None]
) -> None:
    """Request what is missing, and append what comes over one connection."""
    have = file.tell()
    # No encoding: the checksum and the position to resume from are those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(archive.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        start = _check_answer(response, archive, have)
        for index, block in enumerate(response.raw.stream(_MEGABYTE, decode_content=False)):
            if index == 0 and start < have:  # not before there is something to replace it
                _empty(file)
            if file.tell() + len(block) > archive.size:
                raise _OtherFileError(f"more than the {archive.size:,} bytes that are published")
            with explain_failed_writes(file.name):
                file.write(block)
                file.flush()
            advance_to(file.tell())
    if file.tell() <= have:
        raise urllib3.exceptions.ProtocolError("the connection ended early")


def _check_answer(response: requests.Response, archive: Archive, have: int) -> int:
    """Return the position at which the content of an answer starts."""
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        raise _OtherFileError(f"it is shorter than the {archive.size:,} bytes that are published")
    response.raise_for_status()
    if response.status_code == requests.codes.partial_content:
        part = response.headers.get("Content-Range", "")
        if not re.fullmatch(rf"bytes {have}-\d+/({archive.size}|\*)", part):
            asked = f"the rest from byte {have} of {archive.size}"
            raise _OtherFileError(f"it sends {part!r} when asked for {asked}")
        return have
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != archive.size:
        raise _OtherFileError(f"{int(length):,} bytes, not the published {archive.size:,}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _OtherFileError("a web page, such as the login page of a network")
    return 0


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _reason(error: Exception) -> str:
    if getattr(error, "response", None) is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    # The libraries wrap the cause, which is the last argument.
    while error.args and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    return str(getattr(error, "reason", None) or error) or type(error).__name__
