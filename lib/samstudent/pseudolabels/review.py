"""Reviews of pseudo labels: order of the queue, decisions of reviewers, and the label of an accepted one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import UserError
from samstudent.imaging.label_writing import label_map
from samstudent.pseudolabels.provenance import Provenance
from samstudent.task import Task
from samstudent.util.database import connection, make_tables

Verdict = Literal["rejected", "sent"]
#: Origin of a structure of an accepted label: the refined mask, the student's own, or the structure is absent;
#: ``unknown``: not annotated, in labels that were accepted for their lower bounds of Dice only.
MaskOrigin = Literal["refined", "student", "absent", "unknown"]
#: Choices of a reviewer.
SOURCES: tuple[MaskOrigin, ...] = ("refined", "student", "absent")

#: In the study's state.sqlite, beside the tables of active learning.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS reviews (
    case_id TEXT PRIMARY KEY, decision TEXT NOT NULL, made_with TEXT NOT NULL, who TEXT NOT NULL, time REAL NOT NULL
);
"""
_FIELDS = [field for field in Provenance.__dataclass_fields__ if field != "time"]


@dataclass(frozen=True)
class ReviewDecision:
    """Decision of a reviewer about a pseudo label.

    Attributes:
        decision: rejected, or sent to the annotators.
        made_with: provenance of that label.
        who: user name.
        time: seconds since 1970.
    """

    decision: Verdict
    made_with: Mapping[str, str]
    who: str
    time: float

    def holds_for(self, info: Mapping[str, Any]) -> bool:
        """Whether the decision applies to the label with this info.

        A case that was sent waits for an annotator, whatever pseudo label it has. A rejected label stays rejected until
        it is made with another student, SAM or recipe; the rejection applies to the student's own masks, too.
        """
        if self.decision == "sent":
            return True
        found = info.get("provenance")
        if not isinstance(found, Mapping):
            return False
        # The student's own masks have no digests of SAM and recipe.
        fields = _FIELDS if found.get("sam_backend") else ["student"]
        return all(found.get(field) == self.made_with.get(field) for field in fields)


class Reviews:
    """Decisions of one study, in SQLite, shared by any number of processes.

    An accepted pseudo label is a human label in the datastore and has no decision here.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Open or create the table in an SQLite file; ``now``: the current time, for tests.

        Raises:
            UserError: the file is no SQLite database.
        """
        self.path, self._now = path, now
        make_tables(path, _SCHEMA, "restore it from a backup, or rename it: a new one is made, without the reviews")

    def record(self, case: str, decision: Verdict, info: Mapping[str, Any], who: str) -> None:
        """Record a decision about the pseudo label with this info, in place of an earlier one about the case."""
        provenance = info.get("provenance") or {}
        made_with = json.dumps({field: str(provenance.get(field, "")) for field in _FIELDS}, sort_keys=True)
        with connection(self.path) as database:
            row = (case, decision, made_with, who, self._now())
            database.execute("INSERT OR REPLACE INTO reviews VALUES (?, ?, ?, ?, ?)", row)

    def undo(self, case: str) -> bool:
        """Remove the decision about a case; False where there was none."""
        with connection(self.path) as database:
            return database.execute("DELETE FROM reviews WHERE case_id = ?", (case,)).rowcount == 1

    def forget(self, cases: Iterable[str]) -> None:
        """Remove the decisions about cases that have a human label now."""
        if done := sorted(self.decisions().keys() & set(cases)):
            with connection(self.path) as database:
                database.executemany("DELETE FROM reviews WHERE case_id = ?", [(case,) for case in done])

    def decisions(self) -> dict[str, ReviewDecision]:
        """Case -> decision, oldest first."""
        with connection(self.path) as database:
            rows = database.execute("SELECT case_id, decision, made_with, who, time FROM reviews ORDER BY time, rowid")
            return {case: ReviewDecision(decision, json.loads(made), who, at) for case, decision, made, who, at in rows}

    def sent(self) -> list[str]:
        """Cases that were sent to the annotators, in the order of the decisions."""
        return [case for case, found in self.decisions().items() if found.decision == "sent"]

    def withheld(self) -> Callable[[str, Mapping[str, Any]], bool]:
        """Function of case and label info with the current decisions: True for a label that must not train."""
        decisions = self.decisions()
        return lambda case, info: case in decisions and decisions[case].holds_for(info)


@dataclass(frozen=True)
class QualitySummary:
    """Estimated quality of a pseudo label, over the structures that it shows.

    Attributes:
        worst: the lowest quality; None where no structure was found.
        mean: mean quality.
        rejected: number of structures that the quality filter rejected.
        lower_bound: the lowest lower bound of Dice; None where a structure has none, or none was found.
    """

    worst: float | None
    mean: float | None
    rejected: int
    lower_bound: float | None = None

    @classmethod
    def of(cls, structures: Mapping[str, Mapping[str, Any]], only: str | None = None) -> QualitySummary:
        """Summary of a label's ``structures``, or of the one named ``only``."""
        found = [s for name, s in structures.items() if s.get("status") != "absent" and only in (None, name)]
        qualities = [float(s.get("quality") or 0.0) for s in found]
        rejected = sum(s.get("status") == "rejected" for s in found)
        if not qualities:
            return cls(None, None, 0)
        bounds = [s.get("lower_bound") for s in found]
        lower = None if None in bounds else min(float(bound) for bound in bounds if bound is not None)
        return cls(min(qualities), sum(qualities) / len(qualities), rejected, lower)


def worst_first(summaries: Mapping[str, QualitySummary], *, by_bound: bool = False) -> list[str]:
    """Cases in the order of the review: lowest worst quality first, then lowest mean.

    Cases without a found structure come first: their structures were probably missed.

    Args:
        summaries: by case.
        by_bound: lowest lower bound of Dice first; before them cases without one.
    """

    def key(case: str) -> tuple[float, float, float, str]:
        summary = summaries[case]
        bound = summary.lower_bound if by_bound else None
        worst = -1.0 if summary.worst is None else summary.worst
        return -1.0 if bound is None else bound, worst, summary.mean or 0.0, case

    return sorted(summaries, key=key)


def check_sources(chosen: Mapping[str, str], structures: Mapping[str, Mapping[str, Any]], task: Task) -> dict[str, str]:
    """Source of each structure of a label to be accepted.

    The default of an accepted structure is its refined mask, that of one that was not found is absent. Rejected
    structures must be in ``chosen``: without a mask the label would teach that they are absent.

    Args:
        chosen: the reviewer's source by name of a structure.
        structures: of the label's info.
        task: the task.

    Raises:
        UserError: unknown structure or source, or a rejected structure without a source.
    """
    if unknown := sorted(set(chosen) - set(task.names)):
        raise UserError(f"structures: {', '.join(unknown)} is not in the task, which has {', '.join(task.names)}")
    if wrong := sorted(name for name, source in chosen.items() if source not in SOURCES):
        raise UserError(f"structures: {wrong[0]} must be one of {', '.join(SOURCES)}, not {chosen[wrong[0]]!r}")
    default = {"accepted": "refined", "absent": "absent"}
    sources = {name: default.get(str(structures.get(name, {}).get("status", "")), "") for name in task.names}
    sources |= chosen
    if left := [name for name, source in sources.items() if not source]:
        raise UserError(
            f"structures: no source for {', '.join(left)}; expected refined, student or absent, because a structure "
            "without a mask is trained as absent. If neither mask is correct, send the case to an annotator"
        )
    return sources


def compose(sources: Mapping[str, str], refined: NDArray[Any], student: NDArray[Any], task: Task) -> NDArray[np.bool_]:
    """Label of an accepted pseudo label.

    Args:
        sources: of ``check_sources``; structures that are ``unknown`` are empty.
        refined: bool (S, *spatial), refined masks, rejected ones included.
        student: bool (S, *spatial), the student's own.

    Returns:
        bool (S, *spatial). Where structures of different sources share pixels although the task forbids it, the smaller
        one gets them.

    Raises:
        UserError: a chosen mask is empty.
    """
    masks = np.zeros_like(refined, dtype=bool)
    for index, name in enumerate(task.names):
        source = sources[name]
        if source in ("refined", "student"):
            masks[index] = (refined if source == "refined" else student)[index]
            if not masks[index].any():
                raise UserError(f"structures: {name}: its {source} mask is empty; choose another, or absent")
    if task.overlap or not _share_pixels(masks):
        return masks
    values = label_map(masks)
    return np.stack([values == value for value in range(1, len(masks) + 1)])


def _share_pixels(masks: NDArray[Any]) -> bool:
    taken = np.zeros(masks[0].shape, dtype=bool)
    for mask in masks:
        if (taken & mask).any():
            return True
        taken |= mask
    return False
