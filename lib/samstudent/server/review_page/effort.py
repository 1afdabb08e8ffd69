"""Effort of annotators and reviewers for the overview: minutes a case over time, by person and by start, and untouched
masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from samstudent.imaging.label_tags import FINAL
from samstudent.server.datastore.identifiers import ACCEPTED_FROM, ANNOTATION
from samstudent.server.review_metadata import ON_PAGE, LabelReview
from samstudent.server.review_page.queue import Infos

#: Largest number of cases of the chart.
MAX_POINTS = 200
#: Longest time between two reviews of a person that counts as work on a case, seconds; longer ones are breaks.
LONGEST_REVIEW = 1800
#: Starts of a structure that are masks of a model.
_MODELS = ("student", "sam")


@dataclass(frozen=True)
class DrawnCase:
    """Case whose label was drawn on the page.

    Attributes:
        case, user: case id and user name.
        time: of saving, seconds since 1970.
        seconds: active time.
        start: mask that the drawing started from: empty, student, sam, label or mixed.
    """

    case: str
    user: str
    time: float
    seconds: float
    start: str


def effort(infos: Infos) -> dict[str, Any] | None:
    """Effort for the labels of a study, as JSON; None: no label was drawn on the page, accepted or reviewed.

    Returns:
        ``points``: case, user, start, time and minutes of the latest cases, oldest first; ``by_user`` and ``by_start``:
        name, number of cases and median minutes; ``untouched``: number of structures whose mask of a model was not
        changed, of ``from_model``; ``reviewed``: number of structures that were accepted in reviews; ``by_reviewer``:
        as ``by_user``, of cases that were reviewed in 3D Slicer's Reviewer extension.
    """
    cases, untouched, from_model, reviewed = [], 0, 0, 0
    for case, labels in infos.items():
        info = labels.get(FINAL) or {}
        if isinstance(about := info.get(ANNOTATION), Mapping):
            cases.append(_drawn(case, info, about))
            taken = [s for s in (about.get("structures") or {}).values() if _is_from_model(s)]
            from_model += len(taken)
            untouched += sum(not structure.get("edited") for structure in taken)
        elif isinstance(origin := info.get(ACCEPTED_FROM), Mapping):
            structures = (origin.get("structures") or {}).values()
            reviewed += sum(structure.get("taken") in ("refined", "student") for structure in structures)
    by_reviewer = _grouped(_review_times(infos))
    if not cases and not reviewed and not by_reviewer:
        return None
    cases.sort(key=lambda item: item.time)
    return {
        "cases": len(cases),
        "points": [vars(item) | {"minutes": round(item.seconds / 60, 2)} for item in cases[-MAX_POINTS:]],
        "by_user": _grouped((item.user, item.seconds) for item in cases),
        "by_start": _grouped((item.start, item.seconds) for item in cases),
        "untouched": untouched,
        "from_model": from_model,
        "reviewed": reviewed,
        "by_reviewer": by_reviewer,
    }


def _drawn(case: str, info: Mapping[str, Any], about: Mapping[str, Any]) -> DrawnCase:
    user, time = str(info.get("user") or "anonymous"), float(info.get("time") or info.get("ts") or 0)
    return DrawnCase(case, user, time, float(about.get("seconds") or 0), str(about.get("start") or "empty"))


def _review_times(infos: Infos) -> Iterator[tuple[str, float]]:
    """Name of the reviewer, and seconds, of each case that was reviewed in 3D Slicer's Reviewer extension.

    The extension stores only the time at which a decision or an edited version was saved. A case takes the time since
    the same person's event before it; the first event of a session has none.
    """
    events = dict[str, dict[int, str]]()
    for case, labels in infos.items():
        for info in labels.values():
            review = LabelReview.of(info)
            if review and review.approved_by and review.edit_time and not info.get(ON_PAGE):
                events.setdefault(review.approved_by, {})[review.edit_time] = case
    for name, found in events.items():
        seconds = dict[str, float]()
        for before, after in pairwise(sorted(found)):
            if after - before <= LONGEST_REVIEW:
                seconds[found[after]] = seconds.get(found[after], 0.0) + after - before
        yield from ((name, value) for value in seconds.values())


def _is_from_model(structure: Mapping[str, Any]) -> bool:
    return structure.get("state") == "drawn" and structure.get("start") in _MODELS


def _grouped(values: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """Name, number of cases, and median minutes, most cases first."""
    groups = dict[str, list[float]]()
    for name, seconds in values:
        groups.setdefault(name, []).append(seconds)
    rows = [{"name": n, "cases": len(s), "minutes": round(median(s) / 60, 2)} for n, s in groups.items()]
    return sorted(rows, key=lambda row: (-int(row["cases"]), str(row["name"])))
