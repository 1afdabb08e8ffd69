"""Pictures for docs/how-to/first-model.md: headless Chromium on a real server, from drawn films to a model in use.

python docs/pictures/first_films.py     # needs apt-get install chromium chromium-driver; 8 minutes on two idle cores

A scripted annotator draws the labels by boxes and strokes, and mends two structures of a pseudo label. The rounds are
shorter than by default: few steps, no adaptation of SAM, no embedding heads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from samstudent.demo import phantom
from samstudent.imaging.case import for_sam, read_image
from samstudent.imaging.labels import read_masks
from samstudent.research.pictures import Panel, case_panels
from samstudent.task import load_task

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from support.browser import Browser
from support.drawing_page import DrawingPage
from support.first_films import MAIN, FirstFilms
from support.live_server import NO_SCORES, RunningServer, TinyStudy
from support.scripted_annotator import ScriptedAnnotator
from support.wrist_study import draw_wrists

PICTURES = Path(__file__).resolve().parents[1] / "images"
#: Films in pixels, (y, x); number of films, of labels before the first round, and of new films.
SHAPE, FILMS, LABELS, NEW = (960, 560), 7, 4, 2
SEED, NEW_SEED = 21, 90
#: Structures that SAM draws by a box; the others are drawn by hand.
BOXED = ("radius", "ulna")
#: Of the masks of SAM: Dice that ends their mending, and largest number of strokes on one.
DICE, STROKES = 0.93, 3
TASK = """\
name: wrist
dimension: 2
structures: [radius, ulna, capitate]
overlap: true
student: {network: unet, size: [64, 48], channels: [16, 32, 64, 128]}
training: {steps: 70, batch_size: 4, mirror: [x]}
pseudo_labels: {folds: 2}
holdout: {fraction: 0}
"""
#: Pictures by the moment of the way; of several moments of one name the first counts, of the rounds the last.
MOMENTS = {"boxes": "first-boxes", "brush": "first-label", "round": "first-round", "review": "first-review"}
MOMENTS |= {"mended": "first-mended", "rounds": "first-rounds"}


def on_the_page(server: RunningServer, study: TinyStudy, folder: Path, output: Path) -> None:
    """Labels, two rounds and a mended pseudo label, with their pictures."""
    browser, seen = Browser(folder / "profile", server.url), set[str]()

    def show(moment: str) -> None:
        if moment not in seen or moment == "rounds":
            browser.save_picture(output / f"{MOMENTS[moment]}.png")
            seen.add(moment)

    try:
        annotator = ScriptedAnnotator(DrawingPage(browser, SHAPE[::-1]), study.task.names, jitter=1.0)
        films = FirstFilms(annotator, study.truth, show)
        films.begin()
        for _ in range(LABELS):
            films.label_next(BOXED, DICE, STROKES)
        films.run_round()
        films.mend_pseudo_label(2, 4)
        films.run_round()
    finally:
        browser.close()


def in_use(study: Path, task_file: Path, folder: Path, path: Path) -> None:
    """Masks of new films by ``samstudent predict`` and by the exported model, as one picture."""
    task = load_task(task_file)
    draw_wrists(folder / "new", NEW, SHAPE, NEW_SEED)
    samstudent = [sys.executable, "-m", "samstudent.cli.main"]
    of_study = ["--studies", str(study), "--task", str(task_file)]
    predict = ["predict", str(folder / "new"), *of_study, "--output", str(folder / "masks")]
    export = ["export", "model", *of_study, "--format", "onnx", "--output", str(folder / "exported")]
    for command in (predict, export):
        subprocess.run([*samstudent, *command], check=True)
    film, model = folder / "new" / "wrist0.png", folder / "exported" / "model.onnx"
    script = [sys.executable, folder / "exported" / "predict_onnx.py", model, film, folder / "onnx.png"]
    subprocess.run(script, check=True)
    image = read_image(film, task.dimension)
    masks = read_masks(folder / "masks" / "wrist0.seg.nrrd", task, image.grid)
    exported = np.stack([np.asarray(Image.open(folder / f"onnx_{name}.png")) > 0 for name in task.names])
    print(f"pixels that differ between predict and the exported model: {(masks != exported).sum()} of {masks.size}")
    panels = [Panel("new film"), Panel("samstudent predict", masks), Panel("exported model", exported)]
    path.write_bytes(case_panels(for_sam(image, task.image), panels, task.names))


def main() -> None:
    """Write the pictures to the first argument, or to docs/images."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task_file, home = folder / "wrist.yaml", folder / "home"
        task_file.write_text(TASK)
        home.mkdir()
        task = load_task(task_file)
        drawn = [phantom.NAMES.index(name) for name in task.names]
        films = draw_wrists(folder / "films", FILMS, SHAPE, SEED)
        truth = {case: masks[drawn] for case, masks in films.items()}
        study = TinyStudy(folder / "films", task_file, task, truth)
        server = RunningServer(study, home, main=MAIN, environment=NO_SCORES)
        try:
            server.wait_until_up()
            on_the_page(server, study, folder, output)
        finally:
            server.stop()
        in_use(study.folder, task_file, folder, output / "first-masks.png")


if __name__ == "__main__":
    main()
