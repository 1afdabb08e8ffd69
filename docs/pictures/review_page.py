"""Picture of the review page, docs/images/review.png: headless Chromium on a real server with a synthetic study.

python docs/pictures/review_page.py     # needs apt-get install chromium chromium-driver; 3 minutes on two idle cores

All masks are results: a student is trained on six labels, and SAM refines its masks of the other cases.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from samstudent.demo import phantom
from samstudent.demo.server import Server
from samstudent.demo.study import prepare_study

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "review.png"
TASK = ROOT / "configs" / "phantom.yaml"
#: Window in pixels, (width, height): that of a small laptop.
WINDOW = (1366, 768)
#: Radiographs in pixels, (y, x): larger than the displayed image.
SHAPE = (960, 560)
#: Numbers of training cases, of hold-out cases (with fewer, folds are trained for the comparison, too) and of labels.
CASES, HOLDOUT, LABELS = 13, 5, 6
SEED = 4
#: Training steps: the student has to recognise all bones.
STEPS = 150
#: Position of the displayed case in the queue, from 0, lowest quality first.
POSITION = 2
#: Time limit for the page and for the scoring of all cases, in seconds.
WAIT_SECONDS = 900


def make_study(folder: Path) -> Path:
    """Study folder with labels, a student and pseudo labels.

    Args:
        folder: empty folder for the study and its source.
    """
    phantom.make_study(folder / "source", CASES + HOLDOUT, SEED, SHAPE, HOLDOUT)
    study = prepare_study(folder / "source", folder, CASES)
    final = study.folder / "labels" / "final"
    final.mkdir(parents=True)
    for case in (*study.holdout, *study.train[:LABELS]):
        shutil.copy(study.truth[case], final)
    for command in (["train", "--pseudo-labels", "off", "--steps", str(STEPS)], ["pseudo-label"]):
        arguments = [*command, "--studies", str(study.folder), "--task", str(TASK)]
        subprocess.run([sys.executable, "-m", "samstudent.cli.main", *arguments], check=True)
    return study.folder


def take_picture(url: str, path: Path) -> None:
    """Screenshot of the review page with the case at ``POSITION`` of the queue.

    Args:
        url: URL of the server.
        path: PNG file.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        size = {"width": WINDOW[0], "height": WINDOW[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"{url}/samstudent#review")
        wait = WebDriverWait(browser, WAIT_SECONDS)
        items = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#queue button[data-case]"))
        item = items[min(POSITION, len(items) - 1)]
        case = item.get_attribute("data-case")
        item.click()
        browser.find_element(By.CSS_SELECTOR, "[data-display=student]").click()
        shown = "return document.querySelector('.stage')?.dataset.shown"
        wait.until(lambda b: b.execute_script(shown) == case)
        # The header shows the progress of the scoring that the server starts for the new student.
        wait.until(lambda b: not b.find_element(By.ID, "job").is_displayed())
        browser.save_screenshot(str(path))
    finally:
        browser.quit()


def main() -> None:
    """Write the picture to the first argument, or to docs/images/review.png."""
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder))
        server = Server(study, TASK, Path(folder) / "server.log")
        try:
            server.wait_until_up()
            take_picture(server.url, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
