"""Picture of the tab Annotate, docs/images/annotate.png: headless Chromium on a real server with a synthetic study.

python docs/pictures/annotate_page.py     # needs apt-get install chromium chromium-driver; a minute on two idle cores

All masks are SAM's: boxes are dragged around the true structures, with a margin, by mouse events.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from samstudent.demo import phantom
from samstudent.demo.server import Server

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from support.browser import Browser
from support.drawing_page import DrawingPage, box_of
from support.wrist_study import TASK, draw_wrists

PICTURE = Path(__file__).resolve().parents[1] / "images" / "annotate.png"
#: Radiographs in pixels, (y, x).
SHAPE = (1400, 1000)
CASES, SEED = 5, 11
#: Structures that get a box, and margin of the boxes in pixels of the image.
BOXED, MARGIN = ("radius", "ulna", "scaphoid", "capitate", "metacarpal_3"), 14
#: Time limit for the scoring of all cases, in seconds.
WAIT_SECONDS = 600


def main() -> None:
    """Write the picture to the first argument, or to docs/images/annotate.png."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        masks = draw_wrists(folder / "study", CASES, SHAPE, SEED)
        server = Server(folder / "study", TASK, folder / "server.log")
        try:
            server.wait_until_up()
            browser = Browser(folder / "profile", server.url)
            try:
                page = DrawingPage(browser, SHAPE[::-1])
                page.open("wrist0")
                for number, (structure, mask) in enumerate(zip(phantom.NAMES, masks["wrist0"], strict=True), 1):
                    if structure in BOXED and mask.any():
                        browser.press(str(number))
                        page.box(*box_of(mask, MARGIN))
                browser.until(lambda: not browser.find("#job").is_displayed(), "the end of the scoring", WAIT_SECONDS)
                browser.save_picture(path)
            finally:
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
