"""Output of the commands about rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from samstudent.cli.rounds import list_rounds, show_round
from samstudent.rounds.ledger import Ledger

TASK = {"name": "drawn", "dimension": 2, "structures": ["disk"], "student": {"size": [64, 64]}}


def test_rounds_list_training_cases_and_left_out_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump(TASK))
    ledger = Ledger(tmp_path / ".samstudent" / "drawn")
    first = ledger.new_round("manual", holdout_ids=["g", "h"])
    ledger.update(
        first,
        status="done",
        labels_used=["a", "b"],
        unreadable={case: f"{case}.png: empty" for case in "cde"},
        not_compared={"h": "trained on by champion (r0000) as f"},
        decision="not promoted",
    )
    list_rounds(str(tmp_path), str(task))
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if first in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[3:6] == ["2", "0", "4"], "labels and pseudo labels that trained, cases left out"
    assert "rounds show" in said
    show_round(first, str(tmp_path), str(task))
    lines = capsys.readouterr().out.splitlines()
    assert "trained on 2 human labels and 0 pseudo labels" in lines
    assert "hold-out: 2 labelled cases, 1 of them not compared on" in lines
    assert "not promoted" in lines
    assert [line for line in lines if line.startswith("not trained on")] == [
        f"not trained on: {case}: {case}.png: empty" for case in "cde"
    ]
    assert "not compared on: h: trained on by champion (r0000) as f" in lines


def test_rounds_are_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump(TASK))
    ledger = Ledger(tmp_path / ".samstudent" / "drawn")
    first = ledger.new_round("manual", holdout_ids=["g"])
    ledger.update(first, status="done", labels_used=["a"])
    list_rounds(str(tmp_path), str(task), as_json=True)
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["id"], record["served"], record["labels_used"]) == (first, False, ["a"])
    show_round(first, str(tmp_path), str(task), as_json=True)
    assert json.loads(capsys.readouterr().out)["reason"] == "manual"


@pytest.mark.parametrize(
    ("cases", "validated", "text"),
    [
        (8, None, "none; 8 labelled cases, 9 are needed"),
        (9, None, "how often they are true is not known; there are only 9 labelled cases"),
        (45, {"coverage": 0.924, "structures": 1360}, "true for 92 % of 1360 structures that were left out"),
    ],
)
def test_lower_bounds_of_a_round_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: int, validated: dict[str, float] | None, text: str
) -> None:
    task = tmp_path / "task.yaml"
    task.write_text(yaml.safe_dump(TASK))
    ledger = Ledger(tmp_path / ".samstudent" / "drawn")
    first = ledger.new_round("manual")
    figures = {"certainty": 0.9, "cases": cases, "needed": 9, "cross_validated": validated}
    ledger.update(first, status="done", dice_bound=figures)
    show_round(first, str(tmp_path), str(task))
    assert f"lower bounds of Dice, certainty 90 %: {text}" in capsys.readouterr().out.splitlines()
