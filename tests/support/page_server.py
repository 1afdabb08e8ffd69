"""The server's page on a bench, in a browser, without the host's server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from support.browser import Browser
from support.needed import require_browser
from support.review_bench import Bench


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Address of an HTTP application in this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def page_of(bench: Bench, profile: Path) -> Iterator[Browser]:
    """A browser for the page of a bench."""
    require_browser()
    with served(bench.app) as url:
        browser = Browser(profile, url)
        try:
            yield browser
        finally:
            browser.close()
