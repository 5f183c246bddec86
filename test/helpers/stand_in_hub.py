"""A stand-in for the hub: the two endpoints that fetching uses, on loopback, with faults to order."""

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """What the server offers, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    repo_id: str = "someone/scenes"
    commit: str = COMMIT
    card: dict[str, object] = field(default_factory=lambda: {"license": "mit"})
    listing: object = None  # overrides the JSON of the listing
    listing_status: int = 200
    file_status: int = 200
    error_code: str = ""
    ignores_ranges: bool = False
    drop_once_after: int | None = None  # close the connection once after this many bytes of a file
    pause_after: int | None = None  # stop sending after this many bytes, until `go_on` is set
    wrong_bytes: int = 0  # spoil so many answers
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range header
    paused: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""

    def answer(self) -> object:
        siblings = []
        for path, content in self.files.items():
            entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": git_digest(content)}
            if path.endswith(".safetensors"):
                entry["lfs"] = {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": 130,
                }
            siblings.append(entry)
        return {"id": self.repo_id, "sha": self.commit, "siblings": siblings, "cardData": self.card}

    def fetched(self) -> list[tuple[str, str | None]]:
        """Requests for files, as (path in the repository, Range header)."""
        mark = f"/resolve/{self.commit}/"
        return [(path.partition(mark)[2], wanted) for path, wanted in self.requests if mark in path]


class Handler(BaseHTTPRequestHandler):
    server: "Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self):
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((path, self.headers.get("Range")))
        if path.startswith("/api/models/"):
            body = json.dumps(hub.answer()).encode() if hub.listing is None else hub.listing
            self.reply(hub.listing_status, body)
            return
        name = path.partition(f"/{hub.repo_id}/resolve/{hub.commit}/")[2]
        if hub.file_status != 200 or name not in hub.files:
            self.reply(hub.file_status if hub.file_status != 200 else 404, b"no")
            return
        self.send_file(hub, hub.files[name])

    def send_file(self, hub, content):
        if hub.wrong_bytes:
            hub.wrong_bytes -= 1
            content = b"\0" * len(content)
        start, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted and not hub.ignores_ranges:
            start, status = int(wanted.removeprefix("bytes=").partition("-")[0]), 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if hub.drop_once_after is not None and len(content) > hub.drop_once_after:
            self.wfile.write(content[start : start + hub.drop_once_after])
            hub.drop_once_after = None
            self.close_connection = True
        elif hub.pause_after is not None and len(content) > hub.pause_after:
            self.wfile.write(content[start : start + hub.pause_after])
            self.wfile.flush()
            hub.paused.set()
            hub.go_on.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def reply(self, status, body):
        self.send_response(status)
        if self.server.hub.error_code and status >= 400:
            self.send_header("X-Error-Code", self.server.hub.error_code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        hub.endpoint = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


@contextlib.contextmanager
def running(hub):
    """Serve the hub on a free port of loopback while the block runs."""
    with Server(hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            server.shutdown()
            thread.join()
