"""Annotator on the page who knows the true masks, and the time that a person would need for the same actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from selenium.webdriver.common.keys import Keys

from samstudent.metrics import dice as dice_of
from support.drawing_page import DrawingPage, Point, box_of
from support.strokes import SIZES, Mask, Stroke, mending, outline

#: Seconds of a person's actions by the keystroke-level model (Card, Moran, Newell, CACM 23(7), 1980): a key, moving
#: the pointer, pressing or releasing a button, a decision, and drawing with a mouse by segment and by centimetre.
PAUSES = {"key": 0.2, "point": 1.1, "button": 0.1, "decision": 1.35, "segment": 0.9, "centimetre": 0.16}
#: CSS pixels in a centimetre.
CENTIMETRE = 96 / 2.54


@dataclass
class Effort:
    """What a label has taken.

    Attributes:
        actions: number of actions of each kind of ``PAUSES``.
        waited: seconds that the person waited for the page.
    """

    actions: Counter[str] = field(default_factory=Counter)
    waited: float = 0.0

    @property
    def seconds(self) -> float:
        return self.waited + sum(number * PAUSES[kind] for kind, number in self.actions.items())


class ScriptedAnnotator:
    """Annotator who draws one case after another."""

    def __init__(self, page: DrawingPage, names: Sequence[str], *, jitter: float = 0.0, seed: int = 0) -> None:
        """
        Args:
            page: on the server; its pictures are as large as the true masks.
            names: of the S structures.
            jitter: standard deviation of the places that the hand reaches, in CSS pixels.
            seed: of the jitter.
        """
        self.page, self.names, self.jitter = page, list(names), jitter
        self.rng = np.random.default_rng(seed)
        self.effort, self.strokes = Effort(), 0

    # ---- one structure ----

    def select(self, name: str) -> None:
        """Select a structure by its number."""
        self._decide()
        self._press(*str(self.names.index(name) + 1))

    def draw_outline(self, truth: Mask) -> None:
        """Draw the selected structure by its outline, and fill it."""
        self.stroke(outline(truth, self._tolerance))
        self._press("h")

    def draw_box(self, truth: Mask, margin: float = 2.0) -> None:
        """Let SAM draw the selected structure by a box.

        Args:
            truth: bool (y, x).
            margin: distance of the box from the structure, in pixels of the image.
        """
        self._press("s")
        first, last = self._moved(np.array(box_of(truth, margin)))
        self.effort.actions.update(point=2, button=2)
        self.effort.waited += self.page.box(first, last)

    def stroke(self, stroke: Stroke) -> None:
        """Draw a stroke with the brush or the eraser."""
        self.strokes += 1
        self._press("e" if stroke.erases else "b")
        size = int(self.page.browser.text(".brush-size .size").split()[0])
        steps = SIZES.index(stroke.diameter) - SIZES.index(size)
        self._press(*("]" if steps > 0 else "[") * abs(steps))
        points = self._moved(stroke.points)
        length = np.linalg.norm(np.diff(stroke.points, axis=0), axis=1).sum() * self.page.scale / CENTIMETRE
        self.effort.actions.update(point=1, button=2, segment=len(points) - 1)
        self.effort.actions["centimetre"] += length
        self.page.drag(*points)

    # ---- one case ----

    def mend(self, case: str, truth: Mapping[str, Mask], dice: float, strokes: int) -> dict[str, float]:
        """Mend structures until each reaches a Dice.

        Args:
            case: that is open.
            truth: masks bool (y, x) of the structures to look at, by name.
            dice: to reach.
            strokes: largest number for one structure.

        Returns:
            Dice of each structure afterwards.
        """
        found: dict[str, float] = {}
        for name, true in truth.items():
            self._decide()  # whether it is good
            for number in range(strokes + 1):
                mask = self.drawn(case, true.shape)[name]
                found[name] = dice_of(true, mask) if true.any() or mask.any() else 1.0
                if found[name] >= dice or number == strokes:
                    break
                if not number:
                    self.select(name)
                if not true.any():
                    self._press(Keys.DELETE)
                elif not mask.any():
                    self.draw_outline(true)
                elif plan := mending(true, mask, self._tolerance):
                    self.stroke(plan)
                self._decide()
        return found

    def good_enough(self, case: str, truth: Mapping[str, Mask], dice: float) -> int:
        """Number of structures of the open case that have a Dice now."""
        drawn = self.drawn(case, next(iter(truth.values())).shape)
        return sum(dice_of(true, drawn[name]) >= dice for name, true in truth.items())

    def submit(self, case: str) -> None:
        """Submit; structures without a mask are absent."""
        self.count_submission()
        self.page.browser.press("A")
        self.page.press_submit(case)

    def count_submission(self) -> None:
        """Add what a submission takes."""
        self.effort.actions.update(decision=1, key=3)

    def drawn(self, case: str, shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
        """Present masks bool (y, x) of the open case."""
        return self.page.saved_drawing(case, shape)

    # ---- parts ----

    def _decide(self) -> None:
        self.effort.actions["decision"] += 1

    def _press(self, *keys: str) -> None:
        self.effort.actions["key"] += len(keys)
        self.page.browser.press(*keys)

    @property
    def _tolerance(self) -> float:
        """One and a half CSS pixels, in pixels of the image."""
        return 1.5 / self.page.scale

    def _moved(self, points: NDArray[np.float64]) -> list[Point]:
        """Points as the hand reaches them."""
        moved = points + self.rng.normal(0, self.jitter, points.shape) / self.page.scale
        return [(float(x), float(y)) for x, y in np.clip(moved, 0, np.array(self.page.size) - 1.0)]
