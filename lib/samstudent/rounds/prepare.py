"""Step of a round: decode and prepare cases into the store, each once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from samstudent.errors import UserError
from samstudent.rounds.case_store import CaseSource, CaseStore, PreparedCase
from samstudent.util.progress import Report, StepReport, no_report

logger = logging.getLogger(__name__)


def prepare(
    sources: Iterable[CaseSource], store: CaseStore, report: Report = no_report, step: str = "reading cases"
) -> tuple[list[PreparedCase], dict[str, str]]:
    """Add cases to the store. A case that is not available or cannot be read is logged and left out.

    Args:
        sources: cases, each id once.
        store: of the prepared cases; stored ones are not read again.
        report: called with the progress.
        step: name of this step in the progress.

    Returns:
        The cases in the order of their ids, and id -> reason of the left-out ones.
    """
    ordered = sorted(sources, key=lambda source: source.id)
    progress = StepReport(report, step)
    cases: list[PreparedCase] = []
    left_out: dict[str, str] = {}
    for number, source in enumerate(ordered, 1):
        try:
            cases.append(store.add(source))
        except Exception as error:  # any error of a PACS, a disk or a decoder
            leave_out(source.id, error, left_out)
        progress(number, len(ordered), message=source.id)
    return cases, left_out


def leave_out(case_id: str, reason: Exception, left_out: dict[str, str] | None) -> None:
    """Log that a case is left out, and add the reason to ``left_out``."""
    # No stack trace for a user's damaged file.
    logger.warning("case %s is left out: %s", case_id, reason, exc_info=not isinstance(reason, (UserError, OSError)))
    if left_out is not None:
        left_out[case_id] = str(reason)


def none_left(reasons: Mapping[str, str]) -> UserError:
    """Error of a round without a readable human label, with the reason for each."""
    return UserError("no human label can be read: " + "; ".join(f"{case}: {why}" for case, why in reasons.items()))


def ids_of(cases: Sequence[PreparedCase]) -> list[str]:
    """Ids of prepared cases."""
    return [case.id for case in cases]
