"""A thousand hostile uploads over sockets: each is refused, and the next photo is named."""

import io
import json
import socket
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
import uvicorn
from PIL import Image

from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.serving.app import make_app
from apinet_jax.serving.service import Settings
from apinet_jax.serving.uploads import Limits

LIMITS = Limits(megabytes=1.0, megapixels=50.0, photos=4, seconds=1.0, waiting=64)
HOST = "127.0.0.1"


@contextmanager
def served(run):
    """The port of a server of the run, in a thread."""
    app = make_app(run, Settings(Naming(run.class_names, run.temperature), limits=LIMITS))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def encoded(kind, height=60, width=50):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def flat_png(side):
    """A picture of one colour: few bytes, many pixels."""
    content = io.BytesIO()
    Image.new("L", (side, side)).save(content, "PNG")
    return content.getvalue()


def zip_with_photo():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("photo.jpg", encoded("JPEG"))
    return content.getvalue()


PHOTOS = {kind: encoded(kind) for kind in ("JPEG", "PNG", "WEBP")}
LARGE = {"bomb": flat_png(20_000), "100 megapixels": flat_png(10_000)}
OTHERS = {
    "text": b"hello",
    "page": b"<script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "gif": encoded("GIF"),
    "tiff": encoded("TIFF"),
    "pdf": b"%PDF-1.7\n" + PHOTOS["JPEG"],
    "program": b"\x7fELF" + bytes(100),
    "zip": zip_with_photo(),
    "gif and script": b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)" + PHOTOS["PNG"],
}
NAMES = (
    "../../etc/passwd",
    "..\\..\\x.jpg",
    "/etc/passwd",
    "a\\x00.jpg",
    "CON",
    "%2e%2e%2fx",
    "x" * 5000,
)


def request(body, *, path="/v1/predict", length=None, kind="application/octet-stream"):
    length = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    )
    return f"{head}Connection: close\r\n\r\n".encode() + body


def form(name, content):
    head = f'--b\r\nContent-Disposition: form-data; name="photo"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--b--\r\n"
    return request(body, kind="multipart/form-data; boundary=b")


def hostile(number):
    """A request, the seconds between its two halves, and the statuses that refuse it."""
    random = np.random.default_rng(number)
    photo = PHOTOS[("JPEG", "PNG", "WEBP")[number // 10 % 3]]
    cut = photo[: random.integers(1, len(photo) // 2)]
    kinds = (
        lambda: (request(b""), 0, {415}),
        lambda: (request(cut), 0, {415, 422}),
        lambda: (request(list(OTHERS.values())[random.integers(len(OTHERS))]), 0, {415}),
        lambda: (form("x.jpg", list(OTHERS.values())[random.integers(len(OTHERS))]), 0, {415}),
        lambda: (request(LARGE["bomb"]), 0, {413}),
        lambda: (request(LARGE["100 megapixels"]), 0, {413}),
        lambda: (request(bytes(1_100_000)), 0, {413}),
        lambda: (request(photo, length=len(photo) + 100), 3, {400, 408, None}),
        # What exceeds the stated length is no next request, which the HTTP parser says.
        lambda: (request(photo, length=random.integers(1, len(photo) // 2)), 0, {400, 415, 422}),
        lambda: (form(NAMES[random.integers(len(NAMES))], cut), 0, {400, 415, 422}),
    )
    return kinds[number % 10]()


def ask(port, content, pause=0.0):
    """Send a request in two halves; return the status and the body, `None` for a cut connection."""
    with closing(socket.create_connection((HOST, port), timeout=30)) as connection:
        try:
            connection.sendall(content[: len(content) // 2])
            if pause:
                time.sleep(pause)
            connection.sendall(content[len(content) // 2 :])
        except OSError:
            pass  # refused before its end
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except OSError:
            pass
    if not received:
        return None, b""
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def best(body):
    return json.loads(body)["photos"][0]["answer"]


@pytest.mark.slow
def test_a_thousand_uploads(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    good = request(PHOTOS["JPEG"])
    with served(run) as port, ThreadPoolExecutor(8) as pool:
        status, expected = ask(port, good)
        assert status == 200

        def attack(number):
            content, pause, allowed = hostile(number)
            found, body = ask(port, content, pause)
            assert found in allowed, (number, found, body)
            if found is not None and b"Invalid HTTP request" not in body:
                assert set(json.loads(body)) == {"error"}
            if number % 50 == 0:
                status, named = ask(port, good)
                assert status == 200
                assert best(named) == best(expected)

        list(pool.map(attack, range(1000)))
        for path in ("/../../etc/passwd", "/static/../app.py", "/static//etc/passwd", "/%2e%2e/x"):
            status, body = ask(
                port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            assert status == 404
            assert b"root:" not in body
    assert list(tmp_path.iterdir()) == []
