"""Time of a label by strokes, by boxes of SAM, and by mending a pseudo label: a scripted annotator on the page.

python benchmarks/label_times.py                # about ten minutes on two cores; needs chromium and chromium-driver
python benchmarks/label_times.py --output DIR   # also DIR/results.json, for benchmarks/tables.py

The films are drawn wrists of 960 x 560 pixels with six bones, which did not train. Pseudo labels are masks of a student
that was trained on six labels, refined by SAM. Each way ends for a bone when its mask has a Dice of 0.9 with the true
mask, or after six strokes of mending:
- strokes: an outline with the brush, inside of the border, and the key that fills it;
- boxes: SAM by a box around the bone, 4 pixels larger;
- mending: SAM's mask of the pseudo label.
What is not good enough is mended by strokes of brush and eraser over the largest error.

The pauses of a person are those of the keystroke-level model (Card, Moran, Newell 1980): 1.1 s for moving the pointer,
0.1 s for pressing or releasing a button, 0.2 s for a key, 1.35 s for a decision (which bone next, whether a mask is
good, after each stroke whether it is enough, submission), and for a drawn line 0.9 s a straight segment and 0.16 s a
centimetre. The other hand is on the keyboard. To them the page's answers to boxes are added, as measured. They are
added up, not waited for. Places have an error of 1.5 CSS pixels (standard deviation).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samstudent.demo import phantom
from samstudent.demo.server import Server
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.task import load_task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from table_result import show_table

from support.browser import Browser
from support.drawing_page import DrawingPage
from support.scripted_annotator import PAUSES, Effort, ScriptedAnnotator
from support.wrist_study import TASK, WristOptions, pseudo_labelled_wrists

FILMS, LABELS, HOLDOUT, STEPS = 4, 6, 5, 150
SHAPE = (960, 560)
#: Dice that ends the work on a structure, and largest number of strokes of mending.
DICE, STROKES = 0.9, 6
#: Distance of a box from the structure, in pixels of the image; error of the hand in CSS pixels.
MARGIN, JITTER = 4.0, 1.5
WAYS = {"strokes": "strokes by hand", "boxes": "boxes of SAM", "mending": "mending a pseudo label"}
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Labelled:
    """Label of one film.

    Attributes:
        effort: what it has taken.
        strokes: number of strokes.
        untouched: number of structures of the start that were good enough.
        dice: of each structure that the film has.
    """

    effort: Effort
    strokes: int
    untouched: int
    dice: list[float]


def label(browser: Browser, way: str, case: str, masks: Masks) -> Labelled:
    """Draw the label of a film; it is not submitted, so that the other ways have the same film.

    Args:
        browser: of a person who has no draft of the film.
        way: key of ``WAYS``.
        case: case id.
        masks: true masks bool (y, x) by structure.
    """
    page = DrawingPage(browser, SHAPE[::-1])
    annotator = ScriptedAnnotator(page, phantom.NAMES, jitter=JITTER)
    page.open(case, path="edit" if way == "mending" else "annotate")
    present = {name: mask for name, mask in masks.items() if mask.any()}
    for name, mask in present.items():
        if way != "mending":
            annotator.select(name)
        if way == "strokes":
            annotator.draw_outline(mask)
        elif way == "boxes":
            annotator.draw_box(mask, MARGIN)
    untouched = annotator.good_enough(case, present, DICE)
    found = annotator.mend(case, masks, DICE, STROKES)
    annotator.count_submission()
    return Labelled(annotator.effort, annotator.strokes, untouched, [found[name] for name in present])


def row(way: str, labels: list[Labelled]) -> list[str]:
    """Row of the table."""
    seconds, dice = [found.effort.seconds for found in labels], np.concatenate([found.dice for found in labels])
    drawn = [
        sum(found.effort.actions[kind] * PAUSES[kind] for kind in ("point", "button", "segment", "centimetre"))
        for found in labels
    ]
    return [
        WAYS[way],
        f"{np.mean(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})",
        f"{np.mean(drawn):.0f}",
        f"{np.mean([found.effort.waited for found in labels]):.1f}",
        f"{np.mean([found.strokes for found in labels]):.1f}",
        f"{sum(found.untouched for found in labels)} of {len(dice)}",
        f"{100 * dice.mean():.1f}",
        f"{int((dice >= DICE).sum())} of {len(dice)}",
    ]


def main() -> None:
    """Measure, print, and write results.json if a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for results.json")
    options = parser.parse_args()
    labels: dict[str, list[Labelled]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = pseudo_labelled_wrists(folder, WristOptions(SHAPE, LABELS + FILMS, HOLDOUT, LABELS, STEPS))
        server = Server(study.folder, TASK, folder / "server.log")
        task = load_task(TASK)
        try:
            server.wait_until_up()
            for way in WAYS:
                browser = Browser(folder / way, server.url, recorded=False)
                try:
                    for case in study.train[LABELS:]:
                        grid = read_image(study.folder / f"{case}.png", task.dimension).grid
                        masks = dict(zip(task.names, read_masks(study.truth[case], task, grid), strict=True))
                        labels[way].append(label(browser, way, case, masks))
                        print(way, case, f"{labels[way][-1].effort.seconds:.0f} s", labels[way][-1].dice, flush=True)
                finally:
                    browser.close()
        finally:
            server.stop()
    columns = ["label by", "seconds a film", "pointer", "SAM", "strokes", "good at once", "Dice", "Dice 0.9 reached"]
    table = [row(way, found) for way, found in labels.items()]
    show_table(columns, table, "python benchmarks/label_times.py", options.output)


if __name__ == "__main__":
    main()
