"""Picture of the tab Annotate, docs/images/annotate.png: headless Chromium on a real server with a synthetic study.

python docs/pictures/annotate_page.py     # needs apt-get install chromium chromium-driver; a minute on two idle cores

All masks are SAM's: boxes are dragged around the true structures, with a margin, by mouse events.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from samstudent.demo import phantom
from samstudent.demo.server import Server

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "annotate.png"
TASK = ROOT / "configs" / "phantom.yaml"
#: Window in pixels, (width, height): that of a small laptop.
WINDOW = (1366, 768)
#: Radiographs in pixels, (y, x).
SHAPE = (1400, 1000)
CASES, SEED = 5, 11
#: Structures that get a box, and margin of the boxes in pixels of the image.
BOXED, MARGIN = ("radius", "ulna", "scaphoid", "capitate", "metacarpal_3"), 14
WAIT_SECONDS = 600


class Page:
    """Browser on the tab Annotate."""

    def __init__(self, url: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
            options.add_argument(argument)
        self.browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        size = {"width": WINDOW[0], "height": WINDOW[1], "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.url = url

    def wait(self, script: str, value: object) -> None:
        """Wait until a script returns a value."""
        WebDriverWait(self.browser, WAIT_SECONDS).until(lambda browser: browser.execute_script(script) == value)

    def open(self, case: str) -> None:
        """Open a case, and wait until SAM is ready."""
        self.browser.get(f"{self.url}/samstudent#annotate/{case}")
        self.wait("return document.querySelector('.stage')?.dataset.ready", case)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, "key": key, **text})

    def drag(self, *points: tuple[float, float]) -> None:
        """Mouse from the first to the last point, pixels (x, y) of the image, which fits into the canvas."""
        box = self.browser.execute_script(
            "const b = document.getElementById('drawing').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
        )
        scale = min(box[2] / SHAPE[1], box[3] / SHAPE[0])
        for number, (x, y) in enumerate(points):
            event = {
                "type": "mouseMoved" if number else "mousePressed",
                "x": box[0] + box[2] / 2 + (x + 0.5 - SHAPE[1] / 2) * scale,
                "y": box[1] + box[3] / 2 + (y + 0.5 - SHAPE[0] / 2) * scale,
                "button": "left",
                "buttons": 1,
                "clickCount": 1,
            }
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {**event, "type": "mouseReleased", "buttons": 0})

    def boxes(self, masks: dict[str, np.ndarray]) -> None:
        """Box around each of some structures."""
        for number, name in enumerate(phantom.NAMES, 1):
            if name not in masks or not masks[name].any():
                continue
            self.press(str(number))
            rows, columns = np.flatnonzero(masks[name].any(1)), np.flatnonzero(masks[name].any(0))
            before = self.browser.execute_script("return document.querySelector('.stage').dataset.answered ?? ''")
            first = columns[0] - MARGIN, rows[0] - MARGIN
            last = columns[-1] + MARGIN, rows[-1] + MARGIN
            self.drag(first, ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), last)
            changed = f"return (document.querySelector('.stage').dataset.answered ?? '') !== '{before}'"
            self.wait(changed, True)

    def save(self, path: Path) -> None:
        self.browser.execute_script("document.getElementById('notices').replaceChildren()")
        self.wait("return document.getElementById('job').hidden", True)
        self.browser.save_screenshot(str(path))


def main() -> None:
    """Write the picture to the first argument, or to docs/images/annotate.png."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as name:
        study = Path(name) / "study"
        study.mkdir()
        masks = {}
        for number in range(CASES):
            film = phantom.make_radiograph(np.random.default_rng(SEED + number), SHAPE)
            Image.fromarray(film.image).save(study / f"wrist{number}.png")
            masks[f"wrist{number}"] = dict(zip(phantom.NAMES, film.masks, strict=True))
        server = Server(study, TASK, Path(name) / "server.log")
        try:
            server.wait_until_up()
            page = Page(server.url)
            try:
                page.open("wrist0")
                page.boxes({name: mask for name, mask in masks["wrist0"].items() if name in BOXED})
                page.save(path)
            finally:
                page.browser.quit()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
