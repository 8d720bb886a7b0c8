"""A real HTTP server on loopback that gives a folder's files, with ranges, and misbehaves as it is told.

The last name in a path is the file, so it answers as S3 (/bucket/key) and Google's storage (/b/bucket/o/key) do too.
"""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class ShardServer(ThreadingHTTPServer):
    """Serves `folder`. `trouble[name]` is a list of what goes wrong at the next requests of a file, in order."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, True
        self.trouble: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ShardServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, name = self.server, unquote(urlsplit(self.path).path).rsplit("/", 1)[1]
        with server.lock:
            server.requests[name] += 1
            waiting = server.trouble.get(name)
            trouble = waiting.pop(0) if waiting else "none"
        path = server.folder / name
        if trouble.isdigit() or not path.is_file():
            self._answer(int(trouble) if trouble.isdigit() else 404, b"no")
        elif trouble == "stall":
            server.closing.wait(20)
            self.close_connection = True
        else:
            self._give(path, trouble)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _give(self, path: Path, trouble: str) -> None:
        data, status = path.read_bytes(), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.server.ranges:
            data, status = data[int(asked[1]) : int(asked[2]) + 1], 206
        if trouble == "garble":
            data = bytes([data[0] ^ 1]) + data[1:]
        self._answer(status, data, cut=trouble == "cut")
        with self.server.lock:
            self.server.bytes_sent[path.name] += len(data)

    def _answer(self, status: int, data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)


@contextmanager
def shard_server(folder: Path) -> Iterator[ShardServer]:
    server = ShardServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
