"""A server on the loopback device that hands out files, badly where a test says so."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves one file at any path.

    `cuts` holds after how many bytes the next answers break off, `statuses` what the next ones say
    instead; `ranges` whether ranges are known, `lengths` whether lengths are told; `asked` the
    ranges that were asked for.
    """

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.ranges, self.lengths = content, True, True
        self.cuts, self.statuses, self.asked = [], [], []
        self.url = f"http://127.0.0.1:{self.server_port}/file.tgz"

    def handle_error(self, *_):
        """Says nothing of clients that hang up, as ours does when it has heard enough."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if server.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if server.lengths:
            self.send_header("Content-Length", str(len(body)))
        # As some servers label archives; the bytes are those of the file all the same.
        self.send_header("Content-Encoding", "x-gzip")
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(content):
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
