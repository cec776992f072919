"""Requests to a run: the answers of the command line, and clear refusals."""

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from openapi_spec_validator import validate
from PIL import Image
from starlette.testclient import TestClient

import apinet_jax
from apinet_jax.answers.prediction.naming import Naming
from apinet_jax.data.decoding import decode, least_side
from apinet_jax.serving import uploads
from apinet_jax.serving.app import make_app
from apinet_jax.serving.service import Settings
from apinet_jax.serving.uploads import Limits

LIMITS = Limits(megabytes=0.1, megapixels=0.05, photos=4, waiting=4)


def settings(run):
    return Settings(Naming(run.class_names, run.temperature), limits=LIMITS)


@pytest.fixture(scope="module")
def client(run):
    with TestClient(make_app(run, settings(run)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def files(photos):
    return sorted((photos / "test").rglob("*.png"))


def form(*files):
    return [("photo", (file.name, file.read_bytes())) for file in files]


def png(height, width):
    content = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_photos_are_named(client, run, files):
    found = client.post("/v1/predict?top=2", content=files[0].read_bytes()).json()
    (expected,) = run.predict([files[0]], top=2)
    (row,) = found["photos"]
    assert [each["name"] for each in row["classes"]] == [name for name, _ in expected]
    assert row["probability"] == pytest.approx(expected[0][1], abs=1e-5)
    assert row["answer"] == expected[0][0]
    assert found["provenance"]["hash"] == run.provenance.hash
    assert "checkpoint" not in found["provenance"]


@pytest.mark.parametrize("method", ["full", "scaled"])
def test_photos_are_decoded_as_the_run_decodes_them(client, run, files, monkeypatch, method):
    asked = []

    def recorded(content, least):
        asked.append(least)
        return decode(content, least)

    monkeypatch.setattr(uploads, "decode", recorded)
    monkeypatch.setitem(run.config.data, "decode", method)
    client.post("/v1/predict", content=files[0].read_bytes()).raise_for_status()
    assert asked == [least_side(method, run.config.data.resize)]


def test_unreadable_photos_among_others_have_the_reason(client, files):
    some = [*form(*files[:2]), ("photo", ("x.txt", b"no photo"))]
    rows = client.post("/v1/predict", files=some).json()["photos"]
    assert [row["photo"] for row in rows] == [files[0].name, files[1].name, "x.txt"]
    assert rows[0]["error"] is None
    assert "not a JPEG, PNG or WebP" in rows[2]["error"]


def test_photos_are_compared(client, run, files):
    found = client.post("/v1/compare", files=form(files[0], files[5])).json()
    expected = run.compare(files[0], files[5])
    assert found["same"] == pytest.approx(expected.same, abs=1e-6)
    assert found["class_1"]["name"] == expected.class_1[0]
    assert [side["photo"][:22] for side in found["maps"]] == ["data:image/jpeg;base64"] * 2


def test_predictions_are_explained(client, run, files):
    found = client.post("/v1/explain", content=files[0].read_bytes()).json()
    expected = run.explain(files[0])
    assert found["predicted"] == expected.predicted
    np.testing.assert_allclose(found["contrast"], expected.contrast, rtol=1e-6)
    assert len(found["exemplars"]) == 6
    rival = next(name for name in run.class_names if name != expected.predicted)
    other = client.post("/v1/explain", params={"against": rival}, content=files[0].read_bytes())
    assert other.json()["against"] == rival


def test_requests_share_batches(client, files):
    content = [file.read_bytes() for file in files[:4]]
    alone = [client.post("/v1/predict", content=each).json()["photos"] for each in content]
    ready = threading.Barrier(4)

    def together(each):
        ready.wait()
        return client.post("/v1/predict", content=each).json()["photos"]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(together, content))
    for (one,), (other,) in zip(alone, found, strict=True):
        assert one["answer"] == other["answer"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        ("/v1/predict", b"", 415, "empty file"),
        ("/v1/predict", b"<svg/>", 415, "not a JPEG, PNG or WebP"),
        ("/v1/predict", b"\xff\xd8\xff\xe0 cut", 415, "not a photo: Truncated"),
        ("/v1/predict", png(30, 30)[:-40], 422, "cannot be read"),
        ("/v1/predict", png(300, 300), 413, "300 x 300 pixels, more than 0.05 million"),
        ("/v1/predict", b"x" * 100_001, 413, "larger than 0.1 MB"),
        ("/v1/predict?top=0", png(30, 30), 400, "top = '0' is not a number from 1"),
        ("/v1/predict?top=many", png(30, 30), 400, "top = 'many'"),
        ("/v1/compare", png(30, 30), 400, "1 photos were sent; two are compared"),
        ("/v1/compare?prior=1", png(30, 30), 400, "prior = '1' is not"),
        ("/v1/explain?against=klass", png(30, 30), 422, "klass"),
    ],
)
def test_refused(client, path, content, status, message):
    found = client.post(path, content=content)
    assert found.status_code == status, found.text
    assert message in found.json()["error"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("file", ("x.png", png(9, 9)))], "fields named 'photo'"),
        ([("photo", ("x.png", png(9, 9)))] * 5, "Too many files"),
    ],
)
def test_refused_forms(client, parts, message):
    found = client.post("/v1/predict", files=parts)
    assert found.status_code == 400
    assert message in found.json()["error"]
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/predict", content=b"--y\r\n", headers=broken).status_code == 400


def test_bodies_without_a_length_are_bounded(client):
    found = client.post("/v1/predict", content=(b"x" * 10_000 for _ in range(20)))
    assert found.status_code == 413


@pytest.mark.parametrize("path", ["/v1/none", "/static/../app.py", "/static/%2e%2e/app.py"])
def test_no_other_file_is_served(client, path):
    found = client.get(path)
    assert found.status_code == 404
    assert found.json() == {"error": "Not Found"}


def test_methods(client):
    assert client.get("/v1/predict").status_code == 405
    assert client.post("/healthz").status_code == 405


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for part in (page, client.get("/static/app.js"), client.get("/static/style.css")):
        assert part.status_code == 200
        assert "http:" not in part.text
        assert "https:" not in part.text
        assert "//" not in part.text.replace("// ", "")


def test_what_the_model_is(client, run):
    about = client.get("/v1/model").json()
    assert tuple(about["class_names"]) == run.class_names
    assert about["limits"]["photos"] == 4
    assert client.get("/healthz").json() == {"status": "ok"}


def test_openapi_document_is_valid(client):
    document = client.get("/openapi.json").json()
    validate(document)
    served = {"/v1/predict", "/v1/compare", "/v1/explain", "/v1/model", "/healthz"}
    assert set(document["paths"]) == served


def test_metrics(client, files):
    client.post("/v1/predict", content=files[0].read_bytes())
    client.post("/v1/predict", content=b"no")
    text = client.get("/metrics").text
    assert 'apinet_jax_requests_total{path="/v1/predict",status="200"}' in text
    assert 'apinet_jax_requests_total{path="/v1/predict",status="415"}' in text
    assert "apinet_jax_batch_photos_bucket" in text
    assert client.get("/v1/nobody").status_code == 404
    assert "nobody" not in client.get("/metrics").text


def test_busy_servers_say_when_to_try_again(run, files, monkeypatch):
    app = make_app(run, settings(run)._replace(limits=LIMITS._replace(waiting=1)))
    with TestClient(app) as client:
        begun, finish = threading.Event(), threading.Event()
        slow = type(run).explain

        def explain(*arguments, **options):
            begun.set()
            finish.wait(30)
            return slow(*arguments, **options)

        monkeypatch.setattr(type(run), "explain", explain)
        content = files[0].read_bytes()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/v1/explain", content=content)
            assert begun.wait(30)
            refused = client.post("/v1/predict", content=content)
            assert client.get("/healthz").status_code == 200
            finish.set()
            assert first.result().status_code == 200
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert client.post("/v1/predict", content=content).status_code == 200


def test_failures_have_no_details(run, files, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("secret path")

    monkeypatch.setattr(type(run), "explain", fail)
    with TestClient(make_app(run, settings(run)), raise_server_exceptions=False) as client:
        found = client.post("/v1/explain", content=files[0].read_bytes())
        counted = client.get("/metrics").text
    assert found.status_code == 500
    assert "secret" not in found.text
    assert "content-security-policy" in found.headers
    assert 'apinet_jax_requests_total{path="/v1/explain",status="500"} 1.0' in counted


def test_other_host_names_are_refused(run):
    app = make_app(run, settings(run), hosts=("127.0.0.1",))
    with TestClient(app) as client:
        assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 400
        assert client.get("/healthz", headers={"host": "127.0.0.1:8000"}).status_code == 200


def test_other_pages_are_refused(client, files):
    other = {"sec-fetch-site": "cross-site"}
    found = client.post("/v1/predict", content=files[0].read_bytes(), headers=other)
    assert found.status_code == 403


@pytest.mark.parametrize("charset", ["undefined", "unicode_escape", "utf-7"])
def test_file_names_in_any_encoding(client, charset):
    body = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="\\ud800+2AA-"\r\n\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    found = client.post("/v1/predict", content=body + b"x\r\n--b--\r\n", headers=headers)
    assert found.status_code in (400, 415)


def test_runs_without_their_photos_reveal_no_paths(workdir, files, tmp_path):
    run = apinet_jax.load(workdir, device=jax.devices()[0], data_dir=str(tmp_path / "moved"))
    shutil.rmtree(run.workdir / "answers", ignore_errors=True)
    with TestClient(make_app(run, settings(run))) as client:
        compared = client.post("/v1/compare", files=form(*files[:2]))
        explained = client.post("/v1/explain", content=files[0].read_bytes())
    assert compared.json()["same"] is None
    assert explained.json()["exemplars"] == []
    assert str(tmp_path) not in compared.text + explained.text
