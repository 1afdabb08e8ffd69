"""On cases that nobody trained on it shows how much say an earlier student should have."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.pseudolabels.out_of_fold import spread_out
from samstudent.rounds import scoring
from samstudent.rounds.cases import CaseFiles
from samstudent.rounds.scoring import CHAMPION_WEIGHTS, LEARNT, MOST_WEIGHED, fit_of, not_learnt, weigh_champion
from support.drawn import case_image, shapes, small_task

TASK = small_task()


class Fake:
    """Knows the truth and is ``sure`` of it; or takes each structure for the other."""

    def __init__(self, sure: float = 1.0, *, mistaken: bool = False) -> None:
        self.sure, self.mistaken, self.asked = sure, mistaken, list[str]()

    def predict(self, image: Any, size: Any = None) -> Any:
        self.asked.append(image.path.stem)
        masks = TRUTHS[image.path.stem]
        return self.sure * (masks[::-1] if self.mistaken else masks).astype(np.float32)


TRUTHS: dict[str, Any] = {}


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> list[CaseFiles]:
    def read(files: CaseFiles, task: Any) -> Any:
        if files.id == "gone":
            raise UserError("gone.png: no such file")
        pixels, TRUTHS[files.id] = shapes(int(files.id.removeprefix("case")))
        return replace(case_image(pixels), path=Path(files.image)), LabelledMasks(TRUTHS[files.id])

    monkeypatch.setattr(scoring, "read_truth", read)
    return [entry(f"case{i}") for i in range(3)]


def entry(case: str) -> CaseFiles:
    return CaseFiles(case, f"{case}.png", f"{case}-label.png", "final")


def test_the_better_one_weighs_more(cases: list[CaseFiles]) -> None:
    right: Any = Fake(0.8)
    wrong: Any = Fake(mistaken=True)
    for found, good in ((weigh_champion(wrong, right, cases, TASK), {0.75, 1.0}),
                        (weigh_champion(right, wrong, cases, TASK), {0.25, 0.0})):  # fmt: skip
        assert set(found) == set(CHAMPION_WEIGHTS)
        assert {weight for weight, dice in found.items() if dice == 1} == good
        assert all(found[weight] == 0 for weight in set(found) - good)


def test_a_case_that_cannot_be_read_does_not_tell(cases: list[CaseFiles], caplog: pytest.LogCaptureFixture) -> None:
    earlier: Any = Fake()
    assert weigh_champion(Fake(), earlier, [*cases, entry("gone")], TASK)[0.5] == 1  # type: ignore[arg-type]
    assert "gone" in caplog.text
    assert weigh_champion(Fake(), earlier, [entry("gone")], TASK) == {}  # type: ignore[arg-type]


def test_of_many_cases_some_are_looked_at(cases: list[CaseFiles]) -> None:
    earlier: Any = Fake()
    many = [entry(f"case{i}") for i in range(3 * MOST_WEIGHED)]
    weigh_champion(Fake(), earlier, many, TASK)  # type: ignore[arg-type]
    assert earlier.asked == [f"case{3 * i}" for i in range(MOST_WEIGHED)]


@pytest.mark.parametrize("mistaken", [False, True])
def test_a_student_that_has_not_learnt_its_own_labels_is_told_of(mistaken: bool) -> None:
    pixels, TRUTHS["case3"] = shapes(3)
    known = [(replace(case_image(pixels), path=Path("case3.png")), LabelledMasks(TRUTHS["case3"]))]
    fit = fit_of(Fake(mistaken=mistaken), known, TASK)  # type: ignore[arg-type]
    assert fit == (pytest.approx(0.0, abs=0.2) if mistaken else 1.0)
    told = not_learnt(fit)
    assert (told is not None and "training.steps" in told) if mistaken else told is None


def test_what_is_not_known_is_not_complained_of() -> None:
    assert not_learnt(LEARNT) is None
    assert not_learnt(fit_of(Fake(), [], TASK)) is None  # type: ignore[arg-type]


def test_some_of_many_are_spread_over_all() -> None:
    assert spread_out(range(100), 4) == [0, 25, 50, 75]
    assert spread_out([1, 2], 4) == [1, 2] and spread_out([], 4) == []
