"""The way of a study on the page: first labels, rounds, and pseudo labels that are mended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from samstudent.metrics import dice
from support.scripted_annotator import ScriptedAnnotator

#: App whose rounds leave out the embedding heads and the adaptation of SAM, which take minutes.
MAIN = """\
from samstudent.pseudolabels.ablations import Ablations
from samstudent.rounds import study
from samstudent.server.app import SamstudentApp

study.FULL = Ablations(embedding_head=False, adapt_sam=False)
__all__ = ["SamstudentApp"]
"""
#: Largest duration of a round.
ROUND_SECONDS = 1200
#: Whether the present step of a round is some way on.
_HALF_WAY = (
    "return [...document.querySelectorAll('.jobs [aria-current] progress')]"
    ".some(({ position: p }) => p > 0.3 && p < 0.95)"
)
_ROWS = "return [...document.querySelectorAll('#queue button[data-case]')].map((row) => row.dataset.case)"


class FirstFilms:
    """A person with a folder of films, from the first label on."""

    def __init__(
        self,
        annotator: ScriptedAnnotator,
        truth: Mapping[str, NDArray[Any]],
        show: Callable[[str], None] = lambda moment: None,
    ) -> None:
        """
        Args:
            annotator: on the page of the server.
            truth: masks bool (S, y, x) by case.
            show: called at moments that pictures show, with their names.
        """
        self.annotator, self.truth, self.show = annotator, truth, show
        self.page, self.browser = annotator.page, annotator.page.browser
        self.labelled: list[str] = []

    def begin(self) -> None:
        """Open the tab Annotate, and request the first case."""
        self.browser.open("samstudent#annotate")
        self.browser.find("#cases button")
        self.browser.press("j")

    def label_next(self, boxes: Collection[str], dice: float, strokes: int) -> str:
        """Draw the case that has opened by itself: some structures by boxes and the brush, the others by outlines.

        Args:
            boxes: names of the structures that SAM draws.
            dice: that a mask of SAM has to reach before the brush is put away.
            strokes: largest number of strokes on one structure.

        Returns:
            The case.
        """
        case = self.browser.until(lambda: self.page.shown() not in ("", *self.labelled) and self.page.shown(), "a case")
        self.page.wait_for(case)
        masks = self.masks(case)
        for name in [name for name, mask in masks.items() if name in boxes and mask.any()]:
            self.annotator.select(name)
            self.annotator.draw_box(masks[name])
        self.show("boxes")
        self.annotator.mend(case, {name: mask for name, mask in masks.items() if name in boxes}, dice, strokes)
        for name in [name for name, mask in masks.items() if name not in boxes and mask.any()]:
            self.annotator.select(name)
            self.annotator.draw_outline(masks[name])
        self.show("brush")
        self.annotator.submit(case)
        self.labelled.append(case)
        return str(case)

    def run_round(self) -> dict[str, Any]:
        """Start a round on the overview; returns its record when it is done."""
        before = len(self._rounds())
        self.browser.open("samstudent#overview")
        self.browser.find("#start-round").click()
        self.browser.find("#confirm").click()

        def last() -> dict[str, Any] | None:
            rounds = self._rounds()
            return rounds[-1] if len(rounds) > before and rounds[-1]["status"] in ("done", "failed") else None

        self.browser.until(lambda: self.browser.run(_HALF_WAY) or last(), "the round", ROUND_SECONDS)
        self.show("round")
        record: dict[str, Any] = self.browser.until(last, "the end of the round", ROUND_SECONDS)
        ended = "return document.getElementById('job').hidden"
        self.browser.until(lambda: self.browser.run(ended), "the end of its job", ROUND_SECONDS)
        self.show("rounds")
        return record

    def mend_pseudo_label(self, number: int, strokes: int) -> tuple[str, dict[str, float], dict[str, float]]:
        """Mend the worst structures of the first case in the review queue, and submit.

        Args:
            number: of structures.
            strokes: largest number of strokes on each.

        Returns:
            The case, and Dice of the mended structures before and after.
        """
        self.browser.open("samstudent#review")
        case = str(self.browser.until(lambda: self.browser.run(_ROWS), "the queue")[0])
        self.browser.shows(case)
        self.show("review")
        self.browser.press("e")
        self.page.wait_for(case)
        masks = self.masks(case)
        drawn = self.annotator.drawn(case, next(iter(masks.values())).shape)
        before = {name: dice(mask, drawn[name]) for name, mask in masks.items() if mask.any()}
        worst = sorted(before, key=lambda name: before[name])[:number]
        after = self.annotator.mend(case, {name: masks[name] for name in worst}, 1.01, strokes)
        self.show("mended")
        self.annotator.submit(case)
        self.browser.until(lambda: str(self.browser.run("return location.hash")).startswith("#review"), "the queue")
        return case, {name: before[name] for name in worst}, after

    def masks(self, case: str) -> dict[str, NDArray[np.bool_]]:
        """True masks bool (y, x) of a case by structure."""
        return dict(zip(self.annotator.names, self.truth[case], strict=True))

    def _rounds(self) -> list[dict[str, Any]]:
        found = requests.get(f"{self.browser.url}/samstudent/rounds", timeout=60)
        found.raise_for_status()
        return list(found.json()["rounds"])
