"""A server on the loopback device that serves a file, with the faults that a test sets."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """A server of one file at any path.

    Attributes:
        cuts: After how many bytes the next answers are cut.
        statuses: Statuses of the next answers, which are empty.
        ranges: Whether ranges are supported.
        lengths: Whether answers have a Content-Length.
        extra: Additional headers.
        shift: Distance from the requested start of a range to the served one.
        most: Largest number of bytes in a range.
        asked: Ranges that were requested.
    """

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.ranges, self.lengths = content, True, True
        self.cuts, self.statuses, self.asked, self.extra = [], [], [], {}
        self.shift, self.most = 0, len(content)
        self.url = f"http://127.0.0.1:{self.server_port}/file.tgz"

    def handle_error(self, *_):
        """Ignore clients that hang up, as ours does when it refuses an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            for name, value in ({"Content-Length": "0"} | server.extra).items():
                self.send_header(name, value)
            self.end_headers()
            return
        start, status = 0, 200
        if server.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        body = server.content[start:]
        headers = {"Content-Length": str(len(body))} if server.lengths else {}
        if start:
            status = 206
            start += server.shift
            body = server.content[start : start + server.most]
            last = start + len(body) - 1
            headers["Content-Length"] = str(len(body))
            headers["Content-Range"] = f"bytes {start}-{last}/{len(server.content)}"
        self.send_response(status)
        for name, value in (headers | server.extra).items():
            self.send_header(name, value)
        # As some servers label archives, though the bytes are those of the file.
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
