"""Downloads from a server on this machine: broken off, resumed, altered, refused."""

import fcntl
import hashlib
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import serving

from apinet_jax.data.official import download as module
from apinet_jax.data.official.download import Archive, differs, download
from apinet_jax.system.errors import RunError

CONTENT = np.random.default_rng(0).bytes(3_500_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
STEPS = "Or: fetch it by hand."


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
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


def test_whole(archive, server, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    path = download(archive, folder, STEPS)
    assert path == folder / "file.tgz"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == ["file.tgz"]
    assert server.asked == [None]
    told = capsys.readouterr().err
    assert f"downloading it from {server.url}" in told
    assert "Downloading file.tgz (MB) 3/3" in told


def test_goes_on_where_a_connection_broke_off(archive, server, tmp_path):
    server.cuts = [1_200_000, 2_000_000]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1200000-", "bytes=3200000-"]


def test_goes_on_where_an_earlier_command_ended(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:2_500_000])
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == ["bytes=2500000-"]


def test_asks_for_nothing_where_all_has_come(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT)
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == []


def test_begins_anew_where_the_server_knows_no_ranges(archive, server, tmp_path):
    server.ranges = False
    server.cuts = [1_200_000]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_begins_anew_where_too_much_is_there(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT + b"more")
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None]


def test_server_that_tells_no_length(archive, server, tmp_path):
    server.lengths = False
    server.cuts = [1_200_000]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1200000-"]


@pytest.mark.parametrize("shift", [-1, 1, -1_200_000])
def test_part_that_begins_elsewhere_is_not_taken(archive, server, tmp_path, shift):
    server.cuts, server.shift = [1_200_000], shift
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1200000-", None]


def test_what_is_there_outlives_a_part_that_begins_elsewhere(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1_200_000])
    server.shift, server.cuts = 1, [0] * 9
    with pytest.raises(RunError, match=r"Could not download .*What has come is kept"):
        download(archive, tmp_path, STEPS)
    assert server.asked == ["bytes=1200000-", *[None] * 4]
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:1_200_000]


def test_parts_that_are_shorter_than_what_is_missing(archive, server, tmp_path):
    server.cuts, server.most = [1_200_000], 900_000
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=1200000-", "bytes=2100000-", "bytes=3000000-"]


def test_part_that_nobody_asked_for(archive, server, tmp_path):
    server.statuses = [206]
    with pytest.raises(RunError, match=r"serves another file: 0 bytes"):
        download(archive, tmp_path, STEPS)


def test_part_of_another_file(archive, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:900_000])
    server.extra = {"Content-Range": "bytes 900000-3499999/3500001"}
    with pytest.raises(RunError, match=r"serves another file: 3,500,001 bytes, where 3,500,000"):
        download(archive, tmp_path, STEPS)
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:900_000]


def test_length_that_is_none(archive, server, tmp_path):
    server.extra = {"Content-Length": "abc"}
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


def test_redirect_to_what_is_no_address(archive, server, tmp_path):
    server.statuses, server.extra = [302], {"Location": "http://[::bad/"}
    with pytest.raises(RunError, match=r"Could not download .*Invalid IPv6 URL\. Or: fetch"):
        download(archive, tmp_path, STEPS)
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []  # nothing has come


def test_more_than_was_published_is_not_taken(archive, server, tmp_path):
    server.lengths, server.content = False, CONTENT + bytes(9_000_000)
    with pytest.raises(RunError, match=r"serves another file: more than the 3,500,000 bytes"):
        download(archive, tmp_path, STEPS)
    assert (tmp_path / "file.tgz.part").stat().st_size <= len(CONTENT)


def test_a_busy_server_is_asked_again(archive, server, tmp_path):
    server.statuses = [503, 429]
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_gives_up_where_nothing_new_comes_and_keeps_what_has(archive, server, tmp_path):
    server.cuts = [1_200_000] + [0] * 9
    with pytest.raises(RunError) as caught:
        download(archive, tmp_path, STEPS)
    for part in ("Could not download file.tgz", server.url, "file.tgz.part", "goes on", STEPS):
        assert part in str(caught.value)
    assert len(server.asked) == 1 + 5
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:1_200_000]
    server.cuts = []
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_dead_address_says_how_to_get_it_at_once(archive, server, tmp_path, status):
    server.statuses = [status] * 9
    with pytest.raises(RunError, match=rf"{server.url}: the server answers {status} .*by hand"):
        download(archive, tmp_path, STEPS)
    assert len(server.asked) == 1


def test_nobody_answers(archive, tmp_path):
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
def test_page_in_place_of_the_file(archive, server, tmp_path, kept):
    server.content = b"<html>moved</html>"
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:kept])
    with pytest.raises(RunError, match=r"serves another file: .*3,500,000.*by hand"):
        download(archive, tmp_path, STEPS)
    left = [path.read_bytes() for path in tmp_path.iterdir()]
    assert left == ([CONTENT[:kept]] if kept else [])  # what had come is not lost


def test_no_room(archive, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_500_000))
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:900_000])
    with pytest.raises(RunError, match=r"0\.0 GB free; file\.tgz needs 0\.0 GB more"):
        download(archive, tmp_path, STEPS)
    assert server.asked == []
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1_000_000])
    assert download(archive, tmp_path, STEPS).read_bytes() == CONTENT


def test_folder_that_cannot_be_made(archive, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Could not write .*file\.tgz\.part"):
        download(archive, tmp_path / "file" / "below", STEPS)


@contextmanager
def another_process(archive, folder, monkeypatch):
    """Yields the part that another process holds while ours waits for it."""
    part, told = folder / "file.tgz.part", threading.Event()
    monkeypatch.setattr(module, "say", lambda line: "waiting" in line and told.set())
    with open(part, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=download, args=(archive, folder, STEPS), daemon=True)
        waiting.start()
        assert told.wait(30)
        yield part
    waiting.join(30)
    assert not waiting.is_alive()


def test_waits_for_another_process(archive, server, tmp_path, monkeypatch):
    with another_process(archive, tmp_path, monkeypatch) as part:
        part.write_bytes(b"whole")
        part.rename(tmp_path / "file.tgz")
    assert server.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["file.tgz"]
    assert (tmp_path / "file.tgz").read_bytes() == b"whole"


def test_takes_over_where_another_process_gave_up(archive, server, tmp_path, monkeypatch):
    with another_process(archive, tmp_path, monkeypatch) as part:
        part.write_bytes(b"wrong")
        part.unlink()
    assert (tmp_path / "file.tgz").read_bytes() == CONTENT


def test_what_nobody_publishes_is_not_invented(tmp_path):
    path = tmp_path / "file.tgz"
    path.write_bytes(b"abc")
    archive = Archive("file.tgz", "file", "a page")
    assert differs(archive, path) == ""
    assert differs(archive._replace(size=3), path) == ""
    assert differs(archive._replace(size=4), path) == "it has 3 bytes and not 4"
    # Of RFC 1321.
    md5 = "md5:900150983cd24fb0d6963f7d28e17f72"
    assert differs(archive._replace(checksum=md5), path) == ""
