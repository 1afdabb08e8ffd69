"""Tab Annotate in a browser: cases, tools and prompts of SAM by mouse and keyboard, and the drawing on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from samstudent.server.annotation.drawn_label import DrawnStructure
from support.browser import Browser

#: x, y in pixels of the picture, centres at whole numbers.
Point = tuple[float, float]
_ANSWERED = "return document.querySelector('.stage').dataset.answered ?? ''"


class DrawingPage:
    """Tab Annotate, at the zoom that shows the whole picture."""

    def __init__(self, browser: Browser, size: tuple[int, int], aspect: float = 1.0) -> None:
        """
        Args:
            browser: on the server.
            size: of the pictures in pixels, (x, y).
            aspect: height of a pixel by its width.
        """
        self.browser, self.size, self.aspect = browser, size, aspect

    # ---- cases ----

    def open(self, case: str, *, shown: str | None = None, path: str = "annotate") -> None:
        """Open a case; ``shown``: name of the plane of a volume."""
        self.browser.open(f"samstudent#{path}/{case}")
        self.wait_for(shown or case)

    def wait_for(self, shown: str) -> None:
        """Wait until a case is displayed and SAM is ready."""
        self.browser.shows(shown)
        ready = "return document.querySelector('.stage').dataset.ready"
        self.browser.until(lambda: self.browser.run(ready) == shown, "embedding")

    def shown(self) -> str:
        """Case that is displayed, or an empty text."""
        return self.browser.run("return document.querySelector('.stage')?.dataset.shown") or ""

    def states(self) -> list[str]:
        script = "return [...document.querySelectorAll('.structures li')].map((row) => row.className)"
        return list(self.browser.run(script))

    def press_submit(self, case: str) -> None:
        """Submit, and wait until the label is saved."""
        self.browser.run("document.getElementById('notices').replaceChildren()")
        self.command(Keys.ENTER)
        self.browser.until(lambda: f"{case}: label saved" in self.browser.text("#notices"), "label")

    def command(self, key: str) -> None:
        """Press a key with Ctrl."""
        ActionChains(self.browser.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    # ---- tools ----

    @property
    def scale(self) -> float:
        """CSS pixels for a pixel of the picture, along x."""
        width, height = self.browser.run(
            "const b = document.getElementById('drawing').getBoundingClientRect(); return [b.width, b.height]"
        )
        return float(min(round(width) / self.size[0], round(height) / (self.size[1] * self.aspect)))

    def on_screen(self, point: Point) -> tuple[int, int]:
        """Offset of a point from the centre of the canvas, CSS pixels."""
        scale = self.scale
        x = (point[0] + 0.5 - self.size[0] / 2) * scale
        return round(x), round((point[1] + 0.5 - self.size[1] / 2) * scale * self.aspect)

    def drag(self, *points: Point, keys: str = "") -> None:
        """Press at the first point, move through the others, and release."""
        canvas, chain = self.browser.find("#drawing"), ActionChains(self.browser.driver, duration=30)
        if keys:
            chain.key_down(keys)
        for number, point in enumerate(points):
            chain.move_to_element_with_offset(canvas, *self.on_screen(point))
            if number == 0:
                chain.click_and_hold()
        chain.release()
        if keys:
            chain.key_up(keys)
        chain.perform()

    def click(self, point: Point, keys: str = "") -> None:
        self.drag(point, keys=keys)

    def sam(self, act: Callable[[], None]) -> float:
        """Do something that SAM answers, and wait for the answer; returns its time on the page, in seconds."""
        before = self.browser.run(_ANSWERED)
        act()
        found = self.browser.until(lambda: (now := self.browser.run(_ANSWERED)) != before and now, "answer of SAM")
        return float(str(found).split()[1]) / 1000

    def box(self, first: Point, last: Point) -> float:
        """SAM by a box with these corners; returns the time of the answer in seconds."""
        middle = (first[0] + last[0]) / 2, (first[1] + last[1]) / 2
        return self.sam(lambda: self.drag(first, middle, last))

    # ---- the drawing on the server ----

    def saved_drawing(self, case: str, spatial: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
        """Masks bool (*spatial) of the open case by structure.

        They come from the draft on the server, which is saved first; of a pseudo label that was opened from the review
        queue and not changed yet, from the pseudo label.
        """
        path = f"{self.browser.url}/samstudent/annotate/{case}"
        if self.browser.text("#saved") == "":
            answer = requests.get(f"{path}/predicted", params={"source": "sam"}, timeout=60)
        else:
            self.command("s")
            self.browser.until(lambda: self.browser.text("#saved") in ("draft saved", "draft loaded"), "draft")
            answer = requests.get(f"{path}/draft", params={"client": self.client()}, timeout=60)
        answer.raise_for_status()
        label: dict[str, Any] = answer.json()
        structures = label.get("label", label)["structures"]
        return {name: DrawnStructure(**found).mask(spatial, name) for name, found in structures.items()}

    def client(self) -> str:
        """Name of the person in this browser."""
        return str(self.browser.run("return localStorage.getItem('samstudent-client')"))


def box_of(mask: NDArray[Any], margin: float = 2) -> tuple[Point, Point]:
    """Corners of the box around a mask (y, x)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (columns[0] - margin, rows[0] - margin), (columns[-1] + margin, rows[-1] + margin)
