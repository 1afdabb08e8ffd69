"""Speed of the tab Annotate in headless Chromium: frames of a brush stroke on a film of 3000 x 3000 pixels, time from a
box to its mask, without and with a training on the same machine.

python benchmarks/annotate.py                # about five minutes on two cores
python benchmarks/annotate.py --output DIR   # also DIR/results.json, for benchmarks/tables.py

A stroke is a spiral of mouse events over four seconds, at two zooms. A frame is late if it comes more than 25 ms after
the one before: at 60 frames a second, one was left out. The frames of the same page without a stroke say what the
machine can do. The work is the median time of the page's own code in a frame, or the server's processor time for a box;
other work on the machine changes it little. SAM is the embedded LiteMedSAM.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver.common.keys import Keys

from samstudent.demo import phantom
from samstudent.demo.server import Server
from samstudent.imaging.case import read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.task import load_task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from table_result import show_table

from support.browser import Browser
from support.drawing_page import DrawingPage

SIDE, FACTOR = 3000, 3
CASES, LABELS, BOXES = 4, 3, 40
STROKE_SECONDS, EVENTS_A_SECOND = 4.0, 100
LATE_MS = 25.0
TASK = """\
name: films
dimension: 2
structures: [radius, ulna, scaphoid, lunate, capitate, metacarpal_3]
overlap: true
student: {network: unet, size: [128, 128], channels: [16, 32, 64]}
training: {steps: 100000, batch_size: 4}
holdout: {fraction: 0}
"""
#: Records the times of frames, and the time that the page's own code takes for drawing and strokes.
RECORD = """
const done = arguments[arguments.length - 1];
Promise.all(['stage', 'tools'].map((name) => import(`/samstudent/page/annotate/${name}.js`))).then(([stage, tools]) => {
  const timed = (object, name) => {
    const method = object[name];
    object[name] = function (...values) {
      const start = performance.now();
      try { return method.apply(this, values); } finally { window.spent += performance.now() - start; }
    };
  };
  if (window.spent === undefined) { timed(stage.Stage.prototype, 'draw'); timed(tools.Brush.prototype, 'move'); }
  const frames = [], work = [];
  let running = true;
  window.spent = 0;
  window.stopFrames = () => { running = false; return { frames, work }; };
  const next = (now) => {
    if (!running) return;
    frames.push(now);
    work.push(window.spent);
    window.spent = 0;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
  done();
});
"""


class Page(DrawingPage):
    """Tab Annotate on a film, with its frames and answers measured."""

    def mouse(self, kind: str, x: float, y: float, *, pressed: bool) -> None:
        """Mouse event without the time that Selenium's actions take."""
        values = {"type": kind, "x": x, "y": y, "button": "left" if pressed else "none", "buttons": int(pressed)}
        self.browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {**values, "clickCount": 1})

    def canvas(self) -> tuple[float, float, float, float]:
        """Centre (x, y) and size of the canvas, CSS pixels."""
        box = self.browser.run(
            "const b = document.getElementById('drawing').getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2, b.width, b.height]"
        )
        return box[0], box[1], box[2], box[3]

    def frames(self, stroke: bool) -> dict[str, Any]:
        """Frames of some seconds with a stroke, or without anything."""
        x, y, width, height = self.canvas()
        radius = 0.4 * min(width, height)
        self.browser.driver.execute_async_script(RECORD)
        if stroke:
            self.mouse("mousePressed", x, y, pressed=True)
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < STROKE_SECONDS:
            if stroke:
                share = passed / STROKE_SECONDS
                angle = 2 * math.pi * 5 * share
                spot = x + radius * share * math.cos(angle), y + radius * share * math.sin(angle)
                self.mouse("mouseMoved", *spot, pressed=True)
            time.sleep(max(0.0, 1 / EVENTS_A_SECOND - (time.perf_counter() - start - passed)))
        if stroke:
            self.mouse("mouseReleased", x, y, pressed=True)
        recorded = self.browser.run("return window.stopFrames()")
        gaps = np.diff(recorded["frames"])
        return {
            "frames": round(1000 / float(np.mean(gaps)), 1),
            "p50": round(float(np.median(gaps)), 1),
            "p95": round(float(np.percentile(gaps, 95)), 1),
            "late": f"{100 * float((gaps > LATE_MS).mean()):.1f} %",
            "work": round(float(np.median([w for w in recorded["work"] if w] or [0.0])), 1),
        }

    def boxes(self, number: int) -> list[float]:
        """Milliseconds from the end of a drag to the drawn mask, for boxes of random place and size."""
        x, y, width, height = self.canvas()
        rng, times = np.random.default_rng(0), []
        for _ in range(number):
            half = rng.uniform(20, 80, 2)
            cx, cy = x + rng.uniform(-0.25, 0.25) * width, y + rng.uniform(-0.35, 0.35) * height

            def drag(cx: float = cx, cy: float = cy, half: NDArray[np.float64] = half) -> None:
                self.mouse("mousePressed", cx - half[0], cy - half[1], pressed=True)
                self.mouse("mouseMoved", cx, cy, pressed=True)
                self.mouse("mouseMoved", cx + half[0], cy + half[1], pressed=True)
                self.mouse("mouseReleased", cx + half[0], cy + half[1], pressed=True)

            times.append(1000 * self.sam(drag))
        return times


def make_study(folder: Path) -> None:
    """Films of 3000 x 3000 pixels, 16 bit; three of them labelled."""
    task_file = folder / "films.yaml"
    task_file.write_text(TASK)
    task, study = load_task(task_file), folder / "study"
    (study / "labels" / "final").mkdir(parents=True)
    for number in range(CASES):
        rng = np.random.default_rng(number)
        film = phantom.make_radiograph(rng, (SIDE // FACTOR, SIDE // FACTOR))
        pixels = film.image.repeat(FACTOR, 0).repeat(FACTOR, 1).astype(np.int32)
        pixels += rng.integers(-60, 60, pixels.shape)
        path = study / f"film{number}.png"
        Image.fromarray(np.clip(pixels, 0, 65535).astype(np.uint16)).save(path)
        if number < LABELS:
            masks = film.masks.repeat(FACTOR, 1).repeat(FACTOR, 2)
            write_masks(study / "labels" / "final" / f"film{number}.seg.nrrd", masks, task, read_image(path).grid)


def measure(server: Server, busy: bool, profile: Path) -> list[dict[str, Any]]:
    """Rows of the table; ``profile``: folder of the browser."""
    browser = Browser(profile, server.url, recorded=False)
    page, rows = Page(browser, (SIDE, SIDE)), list[dict[str, Any]]()
    process = psutil.Process(server.process.pid)
    load = "a training runs" if busy else "no other work"
    try:
        page.open(f"film{CASES - 1}")
        rows.append({"what": "page without input", "machine": load, **page.frames(stroke=False)})
        browser.press("b", "]", "]", "]", "]")
        rows.append({"what": "brush of 80 px, whole film", "machine": load, **page.frames(stroke=True)})
        browser.press("+", "+", "+", "+", "+")
        rows.append({"what": "brush of 80 px, zoom 5.4", "machine": load, **page.frames(stroke=True)})
        browser.press(Keys.HOME, "s")
        used = sum(process.cpu_times()[:2])  # of the server without its jobs
        p50, p95 = np.percentile(page.boxes(BOXES), [50, 95])
        work = 1000 * (sum(process.cpu_times()[:2]) - used) / BOXES
        row = {"what": f"box to mask, {BOXES} boxes", "p50": round(p50), "p95": round(p95), "work": round(work)}
        rows.append({"machine": load, **row})
    finally:
        browser.close()
    return rows


def main() -> None:
    """Measure, print, and write results.json if a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for results.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(folder)
        server = Server(folder / "study", folder / "films.yaml", folder / "server.log")
        try:
            server.wait_until_up()
            rows = measure(server, False, folder / "idle")
            requests.post(f"{server.url}/train/student", json={"pseudo_labels": "off"}, timeout=60).raise_for_status()
            time.sleep(20)  # until the training has prepared its cases
            rows += measure(server, True, folder / "busy")
        finally:
            server.stop()
    columns = ["what", "machine", "frames", "p50", "p95", "late", "work"]
    titles = ["", "machine", "frames/s", "p50, ms", "p95, ms", "late frames", "work, ms"]
    table = [[str(row.get(column, "–")) for column in columns] for row in rows]
    show_table(titles, table, "python benchmarks/annotate.py", options.output)


if __name__ == "__main__":
    main()
