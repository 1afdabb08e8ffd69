"""``samstudent evaluate`` on a study and on folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.cli.main import main
from samstudent.imaging.case import read_image
from samstudent.inference.round_model import RoundModel
from samstudent.metrics import dice_per_structure
from samstudent.rounds import study as study_module
from support.drawn import FakeSam, shapes, write_png
from support.infer_requests import serve
from support.student_study import bench, trained

__all__ = ["bench", "trained"]


@pytest.fixture
def command(bench: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that runs the command on a study with six labels and two rounds: r0001, a trained student, is served;
    r0002 is untrained."""
    bench.study.holdout.extend(bench.truths, [])
    bench.label("c0", "c1", "c2", "c3", "c4", "c5", *bench.study.holdout.ids)
    serve(bench, trained)
    serve(bench, seed=1)
    bench.study.ledger.rollback()
    (tmp_path / "task.yaml").write_text(bench.study.task.model_dump_json())
    monkeypatch.setattr(study_module, "load_backend", lambda section: FakeSam())
    monkeypatch.setenv("COLUMNS", "200")

    def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
        given = ["--studies", bench.folder, "--task", tmp_path / "task.yaml", "--output", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["samstudent", "evaluate", *map(str, [*arguments, *given])])
        with pytest.raises(SystemExit) as end:
            main()
        text = capsys.readouterr()
        return int(end.value.code or 0), text.out + text.err

    return run


def results(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "evaluation.json").read_text())


def test_served_round_on_the_holdout(bench: Any, command: Any, capsys: Any, tmp_path: Path) -> None:
    code, text = command(capsys)
    assert code == 0, text
    found = results(tmp_path)
    assert {case["id"] for case in found["cases"]} == set(bench.study.holdout.ids) and len(found["cases"]) == 2
    assert list(found["models"]) == ["r0001"]
    model = RoundModel.load(bench.study, device="cpu")
    for case in found["cases"]:
        masks = model.predict(read_image(bench.folder / f"{case['id']}.png")).masks
        expected = dice_per_structure(bench.truths[case["id"]], masks)
        assert case["scores"]["r0001"]["dice"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert case["unit"] == "pixels" and case["trained"] == {}
    assert "None of the cases was used to train r0001." in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Lowest Dice" in page and "worst case of r0001" in page and page.count("data:image/png") == 2


def test_two_rounds_side_by_side(command: Any, capsys: Any, tmp_path: Path) -> None:
    code, text = command(capsys, "--round", "r0002", "--round", "served", "--cases", "labelled")
    assert code == 0, text
    assert "r0001 is better than r0002: +" in text
    comparison = results(tmp_path)["summary"]["comparison"]
    assert comparison["second_minus_first"] == ["r0002", "r0001"]
    low, high = comparison["mean"]["interval"]
    assert 0 < low < comparison["mean"]["difference"] < high <= 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "r0001 less r0002" in page and "second largest difference" in page


def test_student_beside_its_refined_masks(command: Any, capsys: Any, tmp_path: Path) -> None:
    code, text = command(capsys, "--round", "r0001", "--round", "r0001+sam")
    assert code == 0, text
    found = results(tmp_path)
    assert found["models"]["r0001"]["sam"] is None
    assert found["models"]["r0001+sam"]["sam"]["backend"] == "lite_medsam"
    scores = found["cases"][0]["scores"]
    assert scores["r0001"] != scores["r0001+sam"]


def test_training_cases_are_stated_and_not_counted(bench: Any, command: Any, capsys: Any, tmp_path: Path) -> None:
    bench.study.ledger.update("r0001", labels_used=["c0", "c1"])
    code, text = command(capsys, "--cases", "labelled")
    assert code == 0, text
    found = results(tmp_path)
    assert {case["id"] for case in found["cases"] if case["trained"]} == {"c0", "c1"}
    assert found["summary"]["cases"] == len(found["cases"]) - 2
    assert "2 more cases are not counted, because they were used to train r0001." in text


def test_labels_that_no_person_has_seen_are_left_out(bench: Any, command: Any, capsys: Any, tmp_path: Path) -> None:
    bench.datastore.update_label_info("c1", "final", {"accepted_from": {"promise": {"dice": 0.9}}})
    bench.datastore.update_label_info("c2", "final", {"accepted_from": {"structures": {}}})  # accepted in the review
    code, text = command(capsys, "--cases", "labelled")
    assert code == 0, text
    cases = {case["id"] for case in results(tmp_path)["cases"]}
    assert "c1" not in cases and "c2" in cases
    assert "1 labels that were accepted for their lower bound of Dice" in text and "are left out: c1" in text


def test_flagged_cases_are_left_out_and_are_no_test_cases(
    bench: Any, command: Any, capsys: Any, tmp_path: Path
) -> None:
    bench.study.flags.put("c1", "another hand", "ann")
    assert command(capsys, "--cases", "test")[0] == 2
    code, text = command(capsys, "--cases", "labelled")
    assert code == 0, text
    assert "c1" not in {case["id"] for case in results(tmp_path)["cases"]}
    assert "1 cases that are flagged as unusable are left out: c1" in text


def test_own_folder_with_labels(command: Any, capsys: Any, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for seed in range(300, 303):
        pixels, masks = shapes(seed)
        write_png(tmp_path / "images" / f"{seed}.png", pixels)
        if seed > 300:
            write_png(tmp_path / "labels" / f"{seed}.png", (masks[0] + 2 * masks[1]).astype(np.uint8))
    (tmp_path / "images" / "299.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    write_png(tmp_path / "labels" / "299.png", np.zeros((4, 4), np.uint8))
    code, text = command(capsys, "--images", tmp_path / "images", "--labels", tmp_path / "labels")
    assert code == 1, "one image is damaged"
    found = results(tmp_path)
    assert [case["id"] for case in found["cases"]] == ["301", "302"] and list(found["failed"]) == ["299"]
    assert found["summary"]["dice"]["r0001"]["mean"] > 0.8
    assert "1 images without a label are left out: 300" in text and "299.png" in text
    assert "Cases that were not measured" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--round", "r0009"], "round 'r0009' does not exist"),
        (["--round", "r0001", "--round", "served"], "r0001 is named twice"),
        (["--round", "r0001", "--round", "r0002", "--round", "served"], "3 rounds: one is evaluated"),
        (["--cases", "all"], "--cases all: use one of holdout, test, labelled"),
        (["--cases", "test"], "no labelled case in the part 'test' of this study (6 cases are labelled)"),
        (["--images", "."], "need both, --images and --labels"),
    ],
)
def test_wrong_arguments_are_named(
    command: Any, capsys: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, text = command(capsys, *arguments)
    assert code == 2 and message in text and "Traceback" not in text
    assert not (tmp_path / "out").exists()
