"""Picture of the review page, docs/images/review.png: headless Chromium on a real server with a synthetic study.

python docs/pictures/review_page.py     # needs apt-get install chromium chromium-driver; 3 minutes on two idle cores

All masks are results: a student is trained on six labels, and SAM refines its masks of the other cases.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from selenium.webdriver.common.by import By

from samstudent.demo.server import Server

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from support.browser import Browser
from support.wrist_study import TASK, WristOptions, pseudo_labelled_wrists

PICTURE = Path(__file__).resolve().parents[1] / "images" / "review.png"
#: With fewer held-out cases, folds are trained for the comparison, too; the radiographs are larger than on the page;
#: after so many steps the student recognises all bones.
STUDY = WristOptions(shape=(960, 560), cases=13, holdout=5, labels=6, steps=150)
#: Position of the displayed case in the queue, from 0, lowest quality first.
POSITION = 2
#: Time limit for the scoring of all cases, in seconds.
WAIT_SECONDS = 900


def take_picture(browser: Browser, path: Path) -> None:
    """Screenshot of the review page with the case at ``POSITION`` of the queue.

    Args:
        browser: on the server.
        path: PNG file.
    """
    browser.open("samstudent#review")
    browser.find("#queue button[data-case]")
    items = browser.driver.find_elements(By.CSS_SELECTOR, "#queue button[data-case]")
    item = items[min(POSITION, len(items) - 1)]
    case = str(item.get_attribute("data-case"))
    item.click()
    browser.find("[data-display=student]").click()
    browser.shows(case)
    # The header shows the progress of the scoring that the server starts for the new student.
    browser.until(lambda: not browser.find("#job").is_displayed(), "the end of the scoring", WAIT_SECONDS)
    browser.save_picture(path)


def main() -> None:
    """Write the picture to the first argument, or to docs/images/review.png."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = pseudo_labelled_wrists(folder, STUDY)
        server = Server(study.folder, TASK, folder / "server.log")
        try:
            server.wait_until_up()
            browser = Browser(folder / "profile", server.url)
            try:
                take_picture(browser, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
            finally:
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
