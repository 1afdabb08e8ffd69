"""From drawn films without a label to a model in use: on the page, by predict, and in an exported file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samstudent.cli.main import main
from samstudent.imaging.case import read_image
from samstudent.imaging.labels import read_masks
from samstudent.metrics import dice
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.task import load_task
from samstudent.util import device
from support.browser import Browser
from support.drawing_page import DrawingPage
from support.first_films import MAIN, FirstFilms
from support.live_server import CASES, NO_SCORES, SIZE, TASK, RunningServer, TinyStudy, draw_film
from support.needed import require_browser
from support.scripted_annotator import ScriptedAnnotator

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]  # two rounds; two minutes on two idle cores

LABELS = 4
#: Seeds of the new films.
NEW = (50, 51)
#: Pixels of a mask that may differ between two runtimes, see export/test_export_model.py.
DIFFERENT = 1
SHORT = {"steps: 8": "steps: 60", "fraction: 0.2": "fraction: 0"}


@pytest.fixture
def films(study: TinyStudy, tmp_path: Path) -> Iterator[FirstFilms]:
    """The page of a server on ten films without a label; none is held out."""
    require_browser()
    text = TASK
    for old, new in SHORT.items():
        text = text.replace(old, new)
    study.task_file.write_text(text)
    home = tmp_path / "home"
    home.mkdir()
    server = RunningServer(study, home, main=MAIN, environment=NO_SCORES)
    try:
        server.wait_until_up()
        browser = Browser(tmp_path / "profile", server.url)
        try:
            annotator = ScriptedAnnotator(DrawingPage(browser, (SIZE, SIZE)), study.task.names)
            yield FirstFilms(annotator, study.truth)
            assert browser.console() == []
            assert browser.asked() <= {browser.url}
        finally:
            browser.close()
    finally:
        server.stop()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """``samstudent`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["samstudent", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def test_first_films_become_a_model_in_use(
    films: FirstFilms, study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films.begin()
    labelled = [films.label_next(["radius", "ulna"], 0.9, 8) for _ in range(LABELS)]
    store = StudyFolderDatastore(str(study.folder), auto_reload=False, read_only=True)
    for case in labelled:
        grid = read_image(study.image(case)).grid
        label = read_masks(store.get_label_uri(case, "final"), study.task, grid)
        scores = [dice(true, mask) for true, mask in zip(study.truth[case], label, strict=True)]
        assert min(scores) > 0.85, (case, scores)

    first = films.run_round()
    assert first["status"] == "done" and set(first["labels_used"]) == set(labelled), first
    mended, before, after = films.mend_pseudo_label(2, 3)
    assert mended in set(CASES) - set(labelled) and len(after) == 2
    assert all(after[name] > before[name] for name in after), (before, after)
    store = StudyFolderDatastore(str(study.folder), auto_reload=False, read_only=True)
    structures = store.get_label_info(mended, "final")["annotation"]["structures"]
    assert {name for name, about in structures.items() if about["edited"]} == set(after)
    second = films.run_round()
    assert second["status"] == "done" and set(second["labels_used"]) == {*labelled, mended}, second

    # The exported network has float32; the product takes bfloat16 where the processor has it.
    monkeypatch.setattr(device, "half_precision", lambda device: None)
    new, truth = tmp_path / "new", {}
    new.mkdir()
    for seed in NEW:
        pixels, truth[seed] = draw_film(np.random.default_rng(seed))
        Image.fromarray(pixels).save(new / f"new{seed}.png")
    of_study = ["--studies", study.folder, "--task", study.task_file]
    command(monkeypatch, "predict", new, *of_study, "--round", second["id"], "--output", tmp_path / "masks")
    exported, task = tmp_path / "exported", load_task(study.task_file)
    command(
        monkeypatch, "export", "model", *of_study, "--round", second["id"], "--format", "onnx", "--output", exported
    )
    for seed in NEW:
        image = new / f"new{seed}.png"
        masks = read_masks(tmp_path / "masks" / f"new{seed}.seg.nrrd", task, read_image(image).grid)
        scores = [dice(true, mask) for true, mask in zip(truth[seed], masks, strict=True)]
        assert np.mean(scores) > 0.6, scores
        script = [sys.executable, exported / "predict_onnx.py", exported / "model.onnx", image, tmp_path / "onnx.png"]
        subprocess.run(script, check=True, timeout=120)
        for name, mask in zip(task.names, masks, strict=True):
            found = np.asarray(Image.open(tmp_path / f"onnx_{name}.png")) > 0
            assert int((found != mask).sum()) <= DIFFERENT, name
