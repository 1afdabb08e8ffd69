"""Unresponsive browser: it fails its test and does not block others."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from selenium.common.exceptions import TimeoutException

from support.browser import Browser
from support.needed import require_browser

pytestmark = pytest.mark.server


@pytest.mark.parametrize("with_driver", [False, True], ids=["browser", "browser and driver"])
def test_unresponsive_browser_is_killed(tmp_path: Path, with_driver: bool) -> None:
    require_browser()
    browser = Browser(tmp_path / "profile", "data:text")
    try:
        assert browser.run("return 1 + 1") == 2
        driver = psutil.Process(browser.driver.service.process.pid)
        family = [*driver.children(recursive=True), *([driver] if with_driver else [])]
        browser.driver.wait_at_most(3)
        for process in family:
            process.suspend()
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(TimeoutException):
                browser.run("return 1 + 1")
    finally:
        browser.close()
    assert time.monotonic() - began < 60
    _, alive = psutil.wait_procs(family, 5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
