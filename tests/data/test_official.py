"""Features of all official data sets, on a small CUB: downloads, windows, malicious archives."""

import hashlib
import io
import json
import os
import pickle
import signal
import tarfile

import numpy as np
import pytest
from file_server import serving
from small_archives import CUB_COUNTS, cub_path, edit, make_small, pack, put_cub, put_files

from apinet_jax.data.cache import ImageReader, cached_reader
from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.official import archive as archives
from apinet_jax.data.official import base as official
from apinet_jax.data.official import download as downloads
from apinet_jax.data.official.cub import Cub
from apinet_jax.system.errors import InputError, RunError

DOWNLOAD = official.download


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path / "root", Cub, **CUB_COUNTS)
    return tmp_path / "root"


@pytest.fixture
def manual(tmp_path):
    return put_cub(tmp_path / "manual")


@pytest.fixture
def content(manual):
    """The bytes of the archive, which is not on the disk."""
    path = pack(manual / "CUB_200_2011.tgz", manual / "CUB_200_2011")
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.fixture
def server(content, monkeypatch):
    """A server of the archive at the address of the data set."""
    monkeypatch.setattr(official, "download", DOWNLOAD, raising=False)
    monkeypatch.setattr(downloads, "_PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(content) as server:
        ((archive,),) = Cub.LAYOUTS
        served = archive._replace(
            url=server.url,
            size=len(content),
            checksum=f"sha256:{hashlib.sha256(content).hexdigest()}",
        )
        monkeypatch.setattr(Cub, "LAYOUTS", ((served,),))
        yield server


def test_downloaded_once_into_the_default_folder(server, root, content):
    server.cuts = [700]
    first = open_dataset("cub")
    assert len(first.train) == 4
    assert (root / "downloads/manual/CUB_200_2011.tgz").read_bytes() == content
    assert server.asked == [None, "bytes=700-"]
    again = open_dataset("cub")
    assert again.fingerprint == first.fingerprint
    assert len(server.asked) == 2
    listing = Cub(data_dir=root).info.metadata["listing"]
    assert listing  # of the downloaded archive: nothing is prepared again while it exists
    (root / "downloads/manual/CUB_200_2011.tgz").unlink()
    open_dataset("cub")
    assert len(server.asked) == 2


def test_dead_address_gives_the_steps(server, manual):
    server.statuses = [404]
    with pytest.raises(RunError) as caught:
        open_dataset("cub", manual_dir=manual)
    for part in (
        f"from {server.url}: the server answers 404",
        "Or: Download CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158",
        f"into {manual}.",
        "data.manual_dir",
        "--manual-dir",
    ):
        assert part in str(caught.value)


def test_no_download_into_a_missing_folder(server, tmp_path):
    with pytest.raises(InputError, match=r"The folder .*manuall does not exist\. Download CUB"):
        open_dataset("cub", manual_dir=tmp_path / "manuall")
    assert server.asked == []


def test_altered_archive_is_used_with_a_warning(server, manual, content, capsys):
    path = manual / "CUB_200_2011.tgz"
    path.write_bytes(content)
    open_dataset("cub", manual_dir=manual)
    assert "WARNING" not in capsys.readouterr().err
    put_cub(manual)
    pack(path, manual / "CUB_200_2011")
    path.write_bytes(path.read_bytes() + b"\0" * (len(content) - path.stat().st_size))
    os.utime(path, ns=(1, 1))
    open_dataset("cub", manual_dir=manual)
    printed = capsys.readouterr().err
    assert f"WARNING: {path} is not the published file" in printed
    assert server.asked == []


def test_records_of_a_version_without_boxes(manual, root):
    uncropped = open_dataset("cub", manual_dir=manual)
    (path,) = root.glob("cub/1.0.0/metadata.json")
    metadata = json.loads(path.read_text())
    del metadata["boxes"], metadata["windows"]
    path.write_text(json.dumps(metadata))
    assert open_dataset("cub", manual_dir=manual).fingerprint == uncropped.fingerprint
    assert "boxes" not in json.loads(path.read_text())  # they were not prepared again
    assert open_dataset("cub", manual_dir=manual, crop_to_box=True).train.windows is not None
    assert "boxes" in json.loads(path.read_text())


def test_fingerprint_of_uncropped_images(manual, root):
    uncropped = open_dataset("cub", manual_dir=manual)
    assert uncropped.train.windows is None
    assert uncropped.fingerprint == Cub(data_dir=root).info.metadata["fingerprint"]


def test_crop_to_box(manual, tmp_path):
    uncropped = open_dataset("cub", manual_dir=manual)
    cropped = open_dataset("cub", manual_dir=manual, crop_to_box=True)
    # x = 1, y = 2, to 6.5 and 6: every pixel that the box touches.
    assert cropped.train.windows.tolist() == [[1, 2, 6, 4]] * 4
    assert cropped.test.windows.tolist() == [[1, 2, 6, 4]] * 3
    assert cropped.train.read(0) == uncropped.train.read(0)
    expected = np.asarray(uncropped.train.picture(0))[2:6, 1:7]
    np.testing.assert_array_equal(np.asarray(cropped.train.picture(0)), expected)
    assert cropped.fingerprint != uncropped.fingerprint
    edit(manual / "CUB_200_2011/bounding_boxes.txt", "5 1.0 2.0", "5 2.0 2.0")
    moved = open_dataset("cub", manual_dir=manual, crop_to_box=True)
    assert moved.fingerprint not in (cropped.fingerprint, uncropped.fingerprint)
    assert open_dataset("cub", manual_dir=manual).fingerprint == uncropped.fingerprint


def test_windows_reach_readers_subsets_and_processes(manual, tmp_path):
    source = open_dataset("cub", manual_dir=manual, crop_to_box=True).train
    windows = np.array([[0, 0, 9, 7], [0, 0, 2, 2], [1, 1, 3, 3], [4, 4, 1, 1]])
    object.__setattr__(source, "windows", windows)
    part = pickle.loads(pickle.dumps(source.subset(np.array([3, 1]))))
    for index, row in enumerate((3, 1)):
        expected = np.asarray(source.picture(row).resize((4, 4), 2))
        np.testing.assert_array_equal(ImageReader(part, 4)(index), expected)
        np.testing.assert_array_equal(cached_reader(part, 4, tmp_path, "same")(index), expected)
    uncropped = open_dataset("cub", manual_dir=manual).train
    cached = cached_reader(uncropped, 4, tmp_path, "same")
    np.testing.assert_array_equal(cached(3), ImageReader(uncropped, 4)(3))


@pytest.mark.parametrize("name", ["birds", "folder"])
def test_data_set_without_boxes(name, tmp_path):
    with pytest.raises(InputError, match=rf"'{name}' has no boxes .*crop_to_box=False"):
        open_dataset(name, tmp_path, crop_to_box=True)


def test_overflowing_box(manual):
    edit(manual / "CUB_200_2011/bounding_boxes.txt", "5 1.0 2.0 5.5", "5 1e308 2.0 1e308")
    with pytest.raises(InputError, match=r"Image 5 has no box of four numbers"):
        open_dataset("cub", manual_dir=manual)


def test_missing_boxes(manual):
    (manual / "CUB_200_2011/bounding_boxes.txt").unlink()
    assert len(open_dataset("cub", manual_dir=manual).train) == 4
    with pytest.raises(InputError, match=r"CUB_200_2011 has no boxes to crop to\. Download CUB"):
        open_dataset("cub", manual_dir=manual, crop_to_box=True)


def add_members(manual, *members):
    """Pack the folder and append members, each a `TarInfo` and its bytes."""
    packed = manual / "CUB_200_2011.tar"
    pack(packed, manual / "CUB_200_2011")
    with tarfile.open(packed, "a") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed.rename(manual / "plain")
    with (
        tarfile.open(manual / "plain") as tar,
        tarfile.open(manual / "CUB_200_2011.tgz", "w:gz") as tgz,
    ):
        for member in tar:
            tgz.addfile(member, tar.extractfile(member) if member.isreg() else None)
    (manual / "plain").unlink()


def test_members_outside_are_not_written(manual, tmp_path):
    names = ("../../evil.txt", str(tmp_path / "evil.txt"), "CUB_200_2011/../../../evil.txt")
    add_members(manual, *((tarfile.TarInfo(name), b"evil") for name in names))
    assert len(open_dataset("cub", manual_dir=manual).train) == 4
    assert list(tmp_path.parent.rglob("evil.txt")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_not_files(manual, tmp_path, kind):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    link = tarfile.TarInfo(f"CUB_200_2011/images/{cub_path(5, 3)}")
    link.type, link.linkname = kind, str(tmp_path / "secret.jpg")
    (manual / link.name).unlink()
    add_members(manual, (link, b""))
    with pytest.raises(InputError, match=rf"missing in .*tgz:(.|\n)*{cub_path(5, 3)}"):
        open_dataset("cub", manual_dir=manual)


@pytest.mark.parametrize("name", ["../../secret.jpg", "{}/secret.jpg"])
def test_list_with_paths_outside(manual, tmp_path, name):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    name = name.format(tmp_path)
    edit(manual / "CUB_200_2011/images.txt", cub_path(5, 3), name)
    with pytest.raises(InputError, match=rf"1 image.*missing(.|\n)*{name}"):
        open_dataset("cub", manual_dir=manual)


def raw(length, kind=tarfile.REGTYPE, **pax):
    """The header of a member `b` with a size or a type that no tool writes."""
    member = tarfile.TarInfo("b")
    member.size, member.type, member.pax_headers = length, kind, pax
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "headers",
    [
        raw(0) + raw(-512),
        raw(-1),
        raw(0) + raw(-512, tarfile.GNUTYPE_SPARSE),
        raw(2**62),
        raw(2**80),
        raw(0, size="-1024"),
        raw(512, **{"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}),
        raw(2**40, tarfile.GNUTYPE_LONGNAME),
        (raw(1, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 2000,
    ],
    ids=["back", "below", "sparse", "large", "huge", "pax", "map", "name", "chain"],
)
def test_invalid_headers(tmp_path, headers):
    place = tmp_path / "b.tar"
    place.write_bytes(headers + bytes(1024))
    signal.alarm(20)  # ends the process if it reads forever
    try:
        with (
            pytest.raises(InputError, match=r"b\.tar is damaged \(.+\)\. Download b\.tar again"),
            archives.open_files(downloads.Archive("b.tar", "x", "page"), place, tmp_path),
        ):
            pass
    finally:
        signal.alarm(0)


def test_sparse_members_are_not_files(tmp_path):
    place = tmp_path / "b.tar"
    place.write_bytes(raw(0, **{"GNU.sparse.map": "0,0", "GNU.sparse.size": "9"}) + bytes(1024))
    archive = downloads.Archive("b.tar", "x", "page")
    with archives.open_files(archive, place, tmp_path) as files:
        assert not files.has("b")


def test_archive_that_expands_without_end(manual, monkeypatch):
    monkeypatch.setattr(archives, "_ALWAYS_ALLOWED", 20_000)
    put_files(manual / "CUB_200_2011", {"zeros": bytes(1_000_000)})
    pack(manual / "CUB_200_2011.tgz", manual / "CUB_200_2011")
    with pytest.raises(InputError, match=r"expands to more than .* which no official archive does"):
        open_dataset("cub", manual_dir=manual)


@pytest.mark.parametrize("packed", [False, True])
def test_oversized_file(manual, monkeypatch, packed):
    monkeypatch.setattr(archives, "_MAX_FILE", 5_000)
    put_files(manual / "CUB_200_2011", {f"images/{cub_path(5, 3)}": bytes(5_001)})
    if packed:
        pack(manual / "CUB_200_2011.tgz", manual / "CUB_200_2011")
    with pytest.raises(InputError, match=r"_555\.jpg.* has 5,001 bytes, more than any official"):
        open_dataset("cub", manual_dir=manual)


def test_missing_images_are_counted(tmp_path):
    files = archives.Files(tmp_path, "Again.", lambda _: False, lambda _: b"")
    with pytest.raises(InputError) as caught:
        archives.require(files, (f"{number}.jpg" for number in range(1030)), "list.txt")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("1,030 image(s) named in list.txt are missing")
    assert lines[-2:] == ["  and 1,010 more", "Again."]
