"""Review decisions about pseudo labels and their effects."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.errors import UserError
from samstudent.pseudolabels.review import QualitySummary, Reviews, check_sources, compose, worst_first
from support.drawn import small_task

MADE = {"student": "s1", "sam_backend": "lite_medsam", "sam_digest": "d1", "recipe_digest": "r1", "task_digest": "t1"}
RAW = {"student": "s1", "sam_backend": "", "sam_digest": "", "recipe_digest": "", "task_digest": "t2"}
TASK = small_task(structures=["disk", "square", "ring"])


def info(**changes: Any) -> dict[str, Any]:
    return {"provenance": {**MADE, "time": 1.0, **changes}}


@pytest.fixture
def reviews(tmp_path: Path) -> Reviews:
    return Reviews(tmp_path / "state.sqlite", now=iter(range(100)).__next__)


def test_rejection_is_valid_until_another_model_makes_the_label(reviews: Reviews) -> None:
    reviews.record("a", "rejected", info(), "anna")
    withheld = reviews.withheld()
    assert withheld("a", info()) and withheld("a", info(time=99.0))
    assert withheld("a", {"provenance": RAW})  # the same student's own masks
    assert not withheld("b", info())
    for field in MADE:
        assert not withheld("a", info(**{field: "another"})), field
    assert not withheld("a", {"provenance": {**RAW, "student": "s2"}})
    assert not withheld("a", {})


def test_sent_case_stays_sent_after_a_new_pseudo_label(reviews: Reviews) -> None:
    reviews.record("b", "sent", info(), "anna")
    reviews.record("a", "sent", {}, "bob")
    assert reviews.sent() == ["b", "a"]
    assert reviews.withheld()("b", info(student="another"))
    reviews.forget(["b", "c"])
    assert reviews.sent() == ["a"]


def test_last_decision_is_valid_and_can_be_undone(reviews: Reviews) -> None:
    reviews.record("a", "sent", info(), "anna")
    reviews.record("a", "rejected", info(), "bob")
    (decided,) = reviews.decisions().values()
    assert (decided.decision, decided.who, decided.time) == ("rejected", "bob", 1)
    assert reviews.undo("a") and not reviews.undo("a")
    assert not reviews.withheld()("a", info())


def _reject(path: Path, case: str) -> None:
    Reviews(path).record(case, "rejected", info(), "anna")


def test_decisions_are_visible_to_other_processes(reviews: Reviews) -> None:
    processes = [multiprocessing.Process(target=_reject, args=(reviews.path, f"c{i}")) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(reviews.decisions()) == {"c0", "c1", "c2", "c3"}


def test_file_that_is_not_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_text("no database, but long enough to be looked at as one")
    with pytest.raises(UserError, match=r"state\.sqlite"):
        Reviews(tmp_path / "state.sqlite")


def structure(status: str, quality: float | None = None) -> dict[str, Any]:
    return {"status": status} | ({} if quality is None else {"quality": quality})


def test_queue_starts_with_empty_and_low_quality_labels() -> None:
    judged = {
        "good": QualitySummary.of({"disk": structure("accepted", 0.9), "square": structure("accepted", 0.8)}),
        "bad": QualitySummary.of({"disk": structure("accepted", 0.95), "square": structure("rejected", 0.3)}),
        "as bad": QualitySummary.of({"disk": structure("accepted", 0.7), "square": structure("rejected", 0.3)}),
        "empty": QualitySummary.of({"disk": structure("absent"), "square": structure("absent")}),
    }
    assert worst_first(judged) == ["empty", "as bad", "bad", "good"]
    assert judged["bad"].rejected == 1 and judged["bad"].mean == pytest.approx(0.625)
    assert (
        QualitySummary.of({"disk": structure("accepted", 0.9), "square": structure("rejected", 0.1)}, "disk").worst
        == 0.9
    )


STRUCTURES = {"disk": structure("accepted", 0.9), "square": structure("rejected", 0.2), "ring": structure("absent")}


def test_rejected_structure_requires_a_source() -> None:
    with pytest.raises(UserError, match=r"no source for square; .* annotator"):
        check_sources({}, STRUCTURES, TASK)
    assert check_sources({"square": "student"}, STRUCTURES, TASK) == {
        "disk": "refined",
        "square": "student",
        "ring": "absent",
    }
    with pytest.raises(UserError, match="ring"):  # the label does not mention it
        check_sources({"square": "absent"}, {k: v for k, v in STRUCTURES.items() if k != "ring"}, TASK)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"hand": "refined"}, "hand is not in the task"),
        ({"disk": "sam"}, "disk must be one of refined, student, absent"),
    ],
)
def test_invalid_sources_are_refused(chosen: dict[str, str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        check_sources(chosen, STRUCTURES, TASK)


def test_label_is_composed_of_the_selected_sources() -> None:
    refined, student = np.zeros((2, 3, 4, 6), dtype=bool)
    refined[0, :, :4] = True
    student[1, 1:3, 3:5] = True  # meets the disk in one column
    sources = {"disk": "refined", "square": "student", "ring": "absent"}
    label = compose(sources, refined, student, TASK)
    assert np.array_equal(label[1], student[1])  # the smaller has the pixels that both want
    assert np.array_equal(label[0], refined[0] & ~student[1]) and not label[2].any()
    overlapping = compose(sources, refined, student, small_task(structures=["disk", "square", "ring"], overlap=True))
    assert np.array_equal(overlapping[0], refined[0]) and np.array_equal(overlapping[1], student[1])
    with pytest.raises(UserError, match="square: its refined mask is empty"):
        compose(sources | {"square": "refined"}, refined, student, TASK)
