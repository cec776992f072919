"""A server on the loopback device that answers like the Hugging Face hub."""

import hashlib
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants


class Hub:
    """Its repositories and the requests that it received.

    A repository is a list of commits, each with its files; the last one is `main`. A repository may
    instead be the error code that the hub refuses it with.
    """

    def __init__(self):
        self.repositories, self.requests, self.address = {}, [], None

    def put(self, repository, files):
        """Uploads the files of a commit, and returns its name."""
        commits = self.repositories.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        return commit

    def answer(self, path):
        """Status, headers and content for a path."""
        if path.startswith("/cdn/"):
            return 200, {}, self._blobs()[path.removeprefix("/cdn/")]
        if "/resolve/" not in path:
            return 404, {}, b""
        owner, model, _, revision, file = path[1:].split("/")
        commits = self.repositories.get(f"{owner}/{model}", "RepoNotFound")
        if commits == "disabled":
            return 403, {"X-Error-Message": "Access to this resource is disabled."}, b""
        if isinstance(commits, str):
            return {"RepoNotFound": 401}.get(commits, 403), {"X-Error-Code": commits}, b""
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": commit}
        if file not in commits[commit]:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        content = commits[commit][file]
        if not file.endswith(".safetensors"):
            return 200, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content
        sha256 = hashlib.sha256(content).hexdigest()  # large files are stored elsewhere
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        return 302, {**headers, **linked, "Location": f"{self.files_address}/cdn/{sha256}"}, b""

    def _blobs(self):
        commits = [c for c in self.repositories.values() if not isinstance(c, str)]
        contents = [file for each in commits for files in each.values() for file in files.values()]
        return {hashlib.sha256(content).hexdigest(): content for content in contents}


@contextmanager
def started_hub():
    """A hub that runs until the end of the block, or until its `stop` is called."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.respond()

        def do_GET(self):
            self.respond()

        def respond(self):
            hub.requests.append((self.command, self.path))
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    hub.address = f"http://127.0.0.1:{server.server_port}"
    hub.files_address = f"http://localhost:{server.server_port}"  # another host, to the client

    def stop():
        server.shutdown()
        server.server_close()
        thread.join()

    hub.stop = stop
    thread.start()
    try:
        yield hub
    finally:
        stop()


def use_hub(hub, folder, monkeypatch):
    """Point the client to a hub, with an empty cache in a folder."""
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    for variable in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
