"""Browser (Debian's chromium) of tests, pictures and benchmarks, with records of its requests and console messages."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from urllib3.exceptions import HTTPError

from support.waits import until

#: Of a browser that is not to call its maker.
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1366,768"
)
WAIT_SECONDS = 60
#: Seconds that the browser gets for one command, a page with all it loads included.
ANSWER_SECONDS = 120
#: Seconds that it gets to close its window.
CLOSE_SECONDS = 20


class Driver(webdriver.Chrome):
    """Selenium's driver of a browser that cannot hang: one that does not answer is killed.

    Selenium waits for an answer without a limit, also for that to ``quit``; a browser that stands still (a page that
    calculates for ever, cores that other work holds) then keeps the tests for ever.

    Args:
        options: of the browser.
    """

    def __init__(self, options: webdriver.ChromeOptions) -> None:
        self.answer_seconds: float = ANSWER_SECONDS
        super().__init__(options=options, service=Service(shutil.which("chromedriver")))
        self.wait_at_most(ANSWER_SECONDS)
        self.set_page_load_timeout(ANSWER_SECONDS / 2)
        self.set_script_timeout(ANSWER_SECONDS / 2)

    def execute(self, driver_command: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a command.

        Raises:
            TimeoutException: the browser does not answer; all later commands fail at once.
        """
        try:
            return dict(super().execute(driver_command, params))
        except HTTPError as error:
            self.kill()
            text = f"the browser did not answer {driver_command} within {self.answer_seconds:g} s and was killed"
            raise TimeoutException(text) from error

    def wait_at_most(self, seconds: float) -> None:
        """Set the timeout of each command from now on."""
        self.answer_seconds = self.command_executor.client_config.timeout = seconds

    def kill(self) -> None:
        """Kill the browser and its driver."""
        if self.service.process is None or self.service.process.poll() is not None:
            return
        driver = psutil.Process(self.service.process.pid)
        for process in [*driver.children(recursive=True), driver]:
            with contextlib.suppress(psutil.Error):
                process.kill()


class Browser:
    """One window of 1366 x 768 pixels with a profile of its own."""

    def __init__(self, profile: Path, url: str, options: str = "", *, recorded: bool = True) -> None:
        """Start it.

        Args:
            profile: folder of its own.
            url: of the server.
            options: more of the command's.
            recorded: whether it records requests and messages; they take time.
        """
        self.url, self.recorded = url, recorded
        chosen = webdriver.ChromeOptions()
        chosen.binary_location = str(shutil.which("chromium"))
        for argument in (*OPTIONS.split(), *options.split(), f"--user-data-dir={profile}"):
            chosen.add_argument(argument)
        if recorded:
            chosen.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = Driver(chosen)
        metrics = {"width": 1366, "height": 768, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, path: str) -> None:
        self.driver.get(f"{self.url}/{path}")

    def save_picture(self, path: Path) -> None:
        """Write the window as PNG, without messages."""
        self.run("document.getElementById('notices').replaceChildren()")
        self.driver.save_screenshot(str(path))

    def close(self) -> None:
        """End all processes of the browser, also if it is unresponsive."""
        self.driver.wait_at_most(min(self.driver.answer_seconds, CLOSE_SECONDS))
        try:
            with contextlib.suppress(WebDriverException):
                self.driver.quit()
        finally:
            self.driver.kill()

    def press(self, *keys: str) -> None:
        """Keys one after another, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def find(self, selector: str) -> WebElement:
        """First element of a CSS selector; waits until it exists."""
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector), selector)
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Text of an element, read in one step, because the page may replace the element at any moment."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
        """Wait until a condition holds; ``what`` is its name in the error."""
        for _ in until(seconds):
            if value := condition():
                return value
        reported = f"page: {self.text('body')[:3000]}"
        if self.recorded:
            reported = f"not answered: {self.waiting()}; console: {self.console()}; {reported}"
        pytest.fail(f"{what} did not happen within {seconds:g} s; {reported}")

    def shows(self, case: str) -> None:
        """Wait until the image of a case (with axis and index of a volume: ``v0 z 5``) is displayed."""
        self.until(
            lambda: self.run("return document.querySelector('.stage')?.dataset.shown") == case, f"picture of {case}"
        )

    def drawn(self) -> list[int]:
        """Sums of red, green and blue over all pixels of the canvas."""
        return list(
            self.run(
                "const c = document.querySelector('.stage canvas'); const o = new OffscreenCanvas(c.width, c.height);"
                " const x = o.getContext('2d', { willReadFrequently: true }); x.drawImage(c, 0, 0);"
                " const d = x.getImageData(0, 0, c.width, c.height).data; const s = [0, 0, 0];"
                " for (let i = 0; i < d.length; i += 4) for (let j = 0; j < 3; j += 1) s[j] += d[i + j]; return s"
            )
        )

    def console(self) -> list[str]:
        """Warnings and errors since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def asked(self) -> set[str]:
        """Origins of all requests since the last call."""
        found = set()
        for message in self._network("requestWillBeSent"):
            url = urlsplit(message["request"]["url"])
            if url.scheme not in ("blob", "data", "chrome"):  # the last are of the browser's own first window
                found.add(f"{url.scheme}://{url.netloc}")
        return found

    def waiting(self) -> list[str]:
        """Requests since the last call without a response."""
        asked: dict[str, dict[str, Any]] = {}
        for event in self._network("requestWillBeSent", "responseReceived", "loadingFailed"):
            if "request" in event:
                asked[event["requestId"]] = event["request"]
            else:
                asked.pop(event["requestId"], None)
        return [f"{request['method']} {request['url']}" for request in asked.values()]

    def _network(self, *kinds: str) -> list[dict[str, Any]]:
        """Network events since the last call."""
        wanted = {f"Network.{kind}" for kind in kinds}
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"] for message in messages if message["method"] in wanted]
