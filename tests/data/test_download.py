"""Downloads from a server on this machine: interrupted, resumed, altered, refused."""

import errno
import fcntl
import hashlib
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import serving
from filelock import FileLock

from apinet_jax.data.official import download as module
from apinet_jax.data.official.download import Archive, differs, download
from apinet_jax.system.errors import RunError

CONTENT = np.random.default_rng(0).bytes(3_500_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
STEPS = "Or: fetch it by hand."


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def archive(server):
    return Archive(
        "file.tgz", "file", "a page", server.url, size=len(CONTENT), checksum=f"sha256:{SHA}"
    )


def test_complete_file(archive, server, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    path = download(archive, folder, STEPS)
    assert path == folder / "file.tgz"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == ["file.tgz"]
    assert server.asked == [None]
    printed = capsys.readouterr().err
    assert f"downloading it from {server.url}" in printed
    assert "Downloading file.tgz (MB) 3/3" in printed


def test_resumes_after_a_cut(archive, server, tmp_path):
    server.cuts = [1_200_000, 2_000_000]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1200000-", "bytes=3200000-"]


def test_resumes_after_an_earlier_command(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:2_500_000])
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == ["bytes=2500000-"]


def test_complete_part_needs_no_request(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT)
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == []


def test_starts_over_without_ranges(archive, server, tmp_path):
    server.ranges = False
    server.cuts = [1_200_000]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_starts_over_if_the_part_is_too_long(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT + b"more")
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None]


def test_answers_without_length(archive, server, tmp_path):
    server.lengths = False
    server.cuts = [1_200_000]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1200000-"]


@pytest.mark.parametrize("shift", [-1, 1, -1_200_000])
def test_wrong_range_is_refused(archive, server, tmp_path, shift):
    server.cuts, server.shift = [1_200_000], shift
    with pytest.raises(RunError, match=r"sends 'bytes .*' when asked for the rest from byte 120"):
        download(archive, tmp_path, STEPS)
    assert server.asked == [None, "bytes=1200000-"]
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:1_200_000]


def test_partial_ranges(archive, server, tmp_path):
    server.cuts, server.most = [1_200_000], 900_000
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=1200000-", "bytes=2100000-", "bytes=3000000-"]


def test_unrequested_range_is_refused(archive, server, tmp_path):
    server.statuses = [206]
    with pytest.raises(
        RunError, match=r"serves another file: it sends '' when asked for the rest from byte 0 "
    ):
        download(archive, tmp_path, STEPS)


def test_range_of_another_file_is_refused(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:900_000])
    server.extra = {"Content-Range": "bytes 900000-3499999/3500001"}
    with pytest.raises(
        RunError, match=r"another file: it sends 'bytes .*3500001' when asked .* of 3500000"
    ):
        download(archive, tmp_path, STEPS)
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:900_000]


def test_invalid_length(archive, server, tmp_path):
    server.extra = {"Content-Length": "abc"}
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


def test_redirect_to_an_invalid_address(archive, server, tmp_path):
    server.statuses, server.extra = [302], {"Location": "http://[::bad/"}
    with pytest.raises(RunError, match=r"Could not download .*Invalid IPv6 URL\. Or: fetch"):
        download(archive, tmp_path, STEPS)
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []  # nothing was received


def test_longer_file_is_refused(archive, server, tmp_path):
    server.lengths, server.content = False, CONTENT + bytes(9_000_000)
    with pytest.raises(RunError, match=r"serves another file: more than the 3,500,000 bytes"):
        download(archive, tmp_path, STEPS)
    assert (tmp_path / "file.tgz.part").stat().st_size <= len(CONTENT)


def test_busy_server_is_retried(archive, server, tmp_path):
    server.statuses = [503, 429]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_gives_up_without_progress_and_keeps_the_part(archive, server, tmp_path):
    server.cuts = [1_200_000] + [0] * 9
    with pytest.raises(RunError) as caught:
        download(archive, tmp_path, STEPS)
    for part in ("Could not download file.tgz", server.url, "file.tgz.part", "resumes", STEPS):
        assert part in str(caught.value)
    assert len(server.asked) == 1 + 5
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:1_200_000]
    server.cuts = []
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_dead_address_fails_at_once_with_the_steps(archive, server, tmp_path, status):
    server.statuses = [status] * 9
    with pytest.raises(RunError, match=rf"{server.url}: the server answers {status} .*by hand"):
        download(archive, tmp_path, STEPS)
    assert len(server.asked) == 1


def test_no_server(archive, tmp_path):
    with serving(b"") as gone:
        url = gone.url
    with pytest.raises(RunError, match=r"Could not download .*[Cc]onnection refused.*by hand"):
        download(archive._replace(url=url), tmp_path, STEPS)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_wrong_checksum(archive, server, tmp_path, algorithm):
    server.content = b"?" + CONTENT[1:]
    published = hashlib.new(algorithm, CONTENT).hexdigest()
    found = hashlib.new(algorithm, server.content).hexdigest()
    wrong = archive._replace(checksum=f"{algorithm}:{published}")
    with pytest.raises(RunError, match=f"its {algorithm} is {found} and not {published}.*by hand"):
        download(wrong, tmp_path, STEPS)
    assert list(tmp_path.iterdir()) == []
    server.content = CONTENT
    assert download(wrong, tmp_path, STEPS).read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [0, 1000])
@pytest.mark.parametrize("lengths", [True, False])
def test_web_page_is_refused(archive, server, tmp_path, kept, lengths):
    server.content, server.ranges, server.lengths = b"<html>log in</html>", False, lengths
    server.extra = {"Content-Type": "text/html; charset=utf-8"}
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:kept])
    with pytest.raises(RunError, match=r"serves another file: .*by hand"):
        download(archive, tmp_path, STEPS)
    left = [path.read_bytes() for path in tmp_path.iterdir()]
    assert left == ([CONTENT[:kept]] if kept else [])  # nothing received is lost


def test_shorter_file_is_refused(archive, server, tmp_path):
    server.content = CONTENT[:900]
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(RunError, match=r"another file: it is shorter than the 3,500,000 bytes"):
        download(archive, tmp_path, STEPS)
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:1000]


def test_full_disk(archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_500_000))
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:900_000])
    with pytest.raises(RunError, match=r"0\.0 GB free; file\.tgz needs 0\.0 GB more"):
        download(archive, tmp_path, STEPS)
    assert server.asked == []
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1_000_000])
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


def test_folder_cannot_be_created(archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Could not write .*file\.tgz\.part"):
        download(archive, tmp_path / "file" / "below", STEPS)


@contextmanager
def another_process(archive, folder, monkeypatch):
    """Hold the lock of another process while a thread waits for it."""
    waits = threading.Event()
    monkeypatch.setattr(module, "say", lambda line: "waiting" in line and waits.set())
    with FileLock(folder / "file.tgz.lock"):
        thread = threading.Thread(target=download, args=(archive, folder, STEPS), daemon=True)
        thread.start()
        assert waits.wait(30)
        yield
    thread.join(30)
    assert not thread.is_alive()


def test_waits_for_another_process(archive, server, tmp_path, monkeypatch):
    with another_process(archive, tmp_path, monkeypatch):
        (tmp_path / "file.tgz").write_bytes(b"complete")
    assert server.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["file.tgz"]
    assert (tmp_path / "file.tgz").read_bytes() == b"complete"


def test_continues_if_another_process_gave_up(archive, server, tmp_path, monkeypatch):
    with another_process(archive, tmp_path, monkeypatch):
        (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1_200_000])
    assert (tmp_path / "file.tgz").read_bytes() == CONTENT
    assert server.asked == ["bytes=1200000-"]


def test_file_system_without_locks(archive, server, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


def test_unknown_size_or_checksum_is_not_checked(tmp_path):
    path = tmp_path / "file.tgz"
    path.write_bytes(b"abc")
    archive = Archive("file.tgz", "file", "a page")
    assert differs(archive, path) == ""
    assert differs(archive._replace(size=3), path) == ""
    assert differs(archive._replace(size=4), path) == "it has 3 bytes and not 4"
    # From RFC 1321.
    md5 = "md5:900150983cd24fb0d6963f7d28e17f72"
    assert differs(archive._replace(checksum=md5), path) == ""
