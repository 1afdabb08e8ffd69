"""Fake PACS with configurable responses: invalid, empty, late."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class FakePacs:
    """Server that responds to every request by ``answer``."""

    def __init__(self, port: int = 0) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.answer(self)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None: ...

        self.answer: Answer = say(200, b"[]")
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def say(status: int, body: bytes, kind: str = "application/dicom+json") -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Endless slow response: no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/dicom+json")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(8)


def listed(**changes: Any) -> bytes:
    item: dict[str, Any] = {
        "0020000D": {"vr": "UI", "Value": ["1.2"]},
        "0020000E": {"vr": "UI", "Value": ["1.2.3"]},
        "00080060": {"vr": "CS", "Value": ["DX"]},
        "00201209": {"vr": "IS", "Value": [1]},
        "00080018": {"vr": "UI", "Value": ["1.2.3.4"]},
    }
    return json.dumps([{**item, **changes}]).encode()
