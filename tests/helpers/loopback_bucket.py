"""A server on the loopback device with the JSON API of Google Cloud Storage.

It implements the requests that gcsfs, google-cloud-storage and tensorstore send.
"""

import email
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import gcsfs
import pytest
from etils.epath.backend import fsspec_backend
from orbax.checkpoint._src.path import gcs_utils

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)")
_COPY = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")
_UPLOAD = re.compile(r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o")
# No credentials are looked up, neither in files nor from a metadata server, and Google is not asked
# for the kind of the bucket.
_NO_CREDENTIALS = {
    "GCE_METADATA_ROOT": "127.0.0.1:9",
    "NO_GCE_CHECK": "true",
    "CLOUDSDK_CONFIG": "/nonexistent",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
}
_CONTROLS = ("TENSORSTORE_GCS_HTTP_URL", "STORAGE_EMULATOR_HOST")


class Cloud:
    """Buckets by their names, each with its objects: name -> (content, generation, seconds).

    `requests` lists the requests. `read_only` refuses writes, `closed` refuses everything.
    `before_write` is called with the name of an object before it is stored.
    """

    def __init__(self):
        self.buckets, self.requests, self.address = {}, [], None
        self.read_only = self.closed = False
        self.before_write = lambda name: None
        self._generation, self.lock, self.uploads = 0, threading.RLock(), {}

    def put(self, bucket, name, content):
        """Stores an object or another version of it."""
        self.before_write(name)
        with self.lock:
            self._generation += 1
            self.buckets[bucket][name] = (content, self._generation, time.time())
        return self.about(bucket, name)

    def put_folder(self, bucket, prefix, folder):
        """Uploads every file of a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.put(bucket, name, path.read_bytes())

    def about(self, bucket, name):
        """The metadata of an object."""
        content, generation, seconds = self.buckets[bucket][name]
        made = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "size": str(len(content)),
            "etag": str(generation),
            "timeCreated": made,
            "updated": made,
        }

    def listing(self, bucket, prefix="", delimiter="", start="", end=""):
        """The objects below a prefix, and the folders that a delimiter makes of the others."""
        items, prefixes = [], set()
        for name in sorted(self.buckets[bucket]):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            below, found, _ = name.removeprefix(prefix).partition(delimiter or "\n")
            if found:
                prefixes.add(prefix + below + delimiter)
            else:
                items.append(self.about(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits for the client to confirm its headers

    def do_GET(self):
        self._respond()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - names that http.server looks up

    def _respond(self):
        cloud, address = self.server.cloud, urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        body = self._body()
        cloud.requests.append((self.command, self.path))
        try:
            with cloud.lock:
                self._answer(address.path, body)
        except KeyError as missing:
            self._refuse(404, f"{missing} does not exist.")

    def _answer(self, path, body):
        cloud = self.server.cloud
        if cloud.closed:
            return self._refuse(401, "Anonymous caller does not have storage.objects.get access.")
        if cloud.read_only and self.command != "GET":
            return self._refuse(403, "The caller does not have storage.objects.create access.")

        def names(form):
            return [unquote(part) for part in form.fullmatch(path).groups()]

        if _COPY.fullmatch(path):
            source, name, target, copy = names(_COPY)
            about = cloud.put(target, copy, cloud.buckets[source][name][0])
            return self._json({"kind": "storage#rewriteResponse", "done": True, "resource": about})
        if _UPLOAD.fullmatch(path):
            return self._upload(names(_UPLOAD)[0], body)
        if _LIST.fullmatch(path):
            bounds = {"start": "startOffset", "end": "endOffset"}
            bounds = {mine: self.query.get(theirs, "") for mine, theirs in bounds.items()}
            wanted = {key: self.query.get(key, "") for key in ("prefix", "delimiter")}
            return self._json(cloud.listing(names(_LIST)[0], **wanted, **bounds))
        if _OBJECT.fullmatch(path):
            return self._object(*names(_OBJECT))
        if _BUCKET.fullmatch(path):
            (bucket,) = names(_BUCKET)
            cloud.buckets[bucket]
            return self._json({"kind": "storage#bucket", "id": bucket, "name": bucket})
        return self._refuse(400, f"{self.command} {path} is not known here")

    def _object(self, bucket, name):
        cloud = self.server.cloud
        content, generation, _ = cloud.buckets[bucket][name]
        if not self._as_asked(generation):
            return None
        if self.command == "DELETE":
            del cloud.buckets[bucket][name]
            return self._send(204, b"")
        if self.query.get("alt") != "media":
            return self._json(cloud.about(bucket, name))
        headers = {"X-Goog-Generation": str(generation), "ETag": str(generation)}
        if not (asked := self.headers.get("Range")):
            return self._send(200, content, headers)
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", asked).groups()
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(len(content), int(last) + 1) if first and last else len(content)
        if start >= len(content):
            return self._refuse(416, "The range cannot be satisfied.")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        return self._send(206, content[start:end], headers)

    def _upload(self, bucket, body):
        cloud, kind = self.server.cloud, self.query.get("uploadType")
        there = cloud.buckets[bucket]
        if "upload_id" in self.query:  # a part of a longer one
            name, content = cloud.uploads[self.query["upload_id"]]
            content.extend(body)
            if self.headers["Content-Range"].endswith("/*"):
                return self._send(308, b"", {"Range": f"bytes=0-{len(content) - 1}"})
            return self._json(cloud.put(bucket, name, bytes(content)))
        if kind == "multipart":
            form = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body
            boundary = email.message_from_bytes(form).get_boundary().encode()
            _, about, rest = body.split(b"--" + boundary, 2)
            name = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
            content = re.split(rb"\r?\n\r?\n", rest, maxsplit=1)[1]
            content = content[: content.rindex(b"--" + boundary)].removesuffix(b"\n")
            content = content.removesuffix(b"\r")
        else:
            name, content = self.query.get("name") or json.loads(body)["name"], body
        if not self._as_asked(there[name][1] if name in there else 0):
            return None
        if kind == "resumable":
            upload = str(len(cloud.uploads))
            cloud.uploads[upload] = name, bytearray()
            where = f"{cloud.address}/upload/storage/v1/b/{bucket}/o?upload_id={upload}"
            return self._send(200, b"", {"Location": where})
        return self._json(cloud.put(bucket, name, content))

    def _as_asked(self, generation):
        """Whether an object is of the generation that a request is about; 0 where there is none."""
        wanted, other = (self.query.get(f"ifGeneration{how}Match") for how in ("", "Not"))
        if wanted is not None and int(wanted) != generation:
            self._refuse(412, "At least one of the pre-conditions did not hold.")
        elif other is not None and int(other) == generation:
            self._send(304, b"")
        else:
            return True
        return False

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "split_batch":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status, message):
        error = {"error": {"code": status, "message": message, "errors": [{"message": message}]}}
        self._send(status, json.dumps(error).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Ignore clients that hang up because they were killed."""


@contextmanager
def started_cloud(*buckets):
    """A cloud with empty buckets that the libraries use instead of Google's."""
    cloud = Cloud()
    # They cache listings of the cloud of an earlier test.
    gcsfs.GCSFileSystem.clear_instance_cache()
    fsspec_backend._get_filesystem.cache_clear()
    gcs_utils.get_bucket.cache_clear()
    cloud.buckets = {bucket: {} for bucket in buckets}
    with _Server(("127.0.0.1", 0), _Handler) as server, pytest.MonkeyPatch.context() as patch:
        server.cloud = cloud
        cloud.address = f"http://127.0.0.1:{server.server_port}"
        for name in _CONTROLS:
            patch.setenv(name, cloud.address)
        for name, value in _NO_CREDENTIALS.items():
            patch.setenv(name, value)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
