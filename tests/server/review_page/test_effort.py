"""Effort of the annotators: minutes by person and start, untouched masks."""

from __future__ import annotations

from typing import Any

from samstudent.server.review_page.effort import effort


def drawn(user: str, seconds: float, start: str, time: float, **edited: bool) -> dict[str, Any]:
    structures = {name: {"state": "drawn", "start": start, "edited": value} for name, value in edited.items()}
    structures["lost"] = {"state": "absent", "start": start, "edited": False}
    about = {"seconds": seconds, "actions": 3, "start": start, "structures": structures}
    return {"final": {"user": user, "time": time, "annotation": about}}


def test_effort_is_grouped_by_person_and_start() -> None:
    accepted = {
        "structures": {"disk": {"taken": "refined"}, "square": {"taken": "absent"}, "ring": {"taken": "student"}}
    }
    found = effort(
        {
            "a": drawn("anna", 120, "sam", 3.0, disk=False, square=True),
            "b": drawn("ben", 300, "empty", 1.0, disk=True),
            "c": drawn("anna", 60, "student", 2.0, disk=False),
            "d": drawn("anna", 180, "sam", 4.0, disk=True),
            "e": {"final": {"user": "rita", "time": 5.0, "accepted_from": accepted}},
            "f": {"final": {"user": "ben", "time": 6.0}},
            "g": {"pseudo": {}},
        }
    )
    assert found is not None
    assert [(p["case"], p["minutes"]) for p in found["points"]] == [("b", 5.0), ("c", 1.0), ("a", 2.0), ("d", 3.0)]
    assert found["by_user"] == [
        {"name": "anna", "cases": 3, "minutes": 2.0},
        {"name": "ben", "cases": 1, "minutes": 5.0},
    ]
    assert found["by_start"] == [
        {"name": "sam", "cases": 2, "minutes": 2.5},
        {"name": "empty", "cases": 1, "minutes": 5.0},
        {"name": "student", "cases": 1, "minutes": 1.0},
    ]
    assert (found["untouched"], found["from_model"], found["reviewed"]) == (2, 4, 2)


def test_minutes_of_reviews_in_slicer_are_times_between_them() -> None:
    def reviewed(time: int, who: str = "rita", status: str = "approved", **more: Any) -> dict[str, Any]:
        review = {"status": status, "level": "", "approvedBy": who, "comment": "", "editTime": time}
        return {"segmentationMeta": review} | more

    found = effort(
        {
            "a": {"final": reviewed(1000)},
            "b": {"final": reviewed(1060, status=""), "version_1": reviewed(1120)},
            "c": {"final": reviewed(1150, status="flagged")},
            "d": {"final": reviewed(9000)},  # after a break
            "e": {"final": reviewed(9300)},
            "f": {"final": reviewed(1130, "ruth")},
            "g": {"final": reviewed(9310, reviewed_on_page=True)},
        }
    )
    assert found is not None
    # b: 60 + 60, c: 30, e: 300 seconds.
    assert found["by_reviewer"] == [{"name": "rita", "cases": 3, "minutes": 2.0}]
    assert found["cases"] == 0


def test_there_is_no_effort_without_drawn_labels() -> None:
    assert effort({"f": {"final": {"user": "ben", "time": 6.0}}, "g": {}}) is None
