"""Figures of a publication beside those that an experiment measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samstudent.research.html import DASH, points
from samstudent.research.result_tables import with_spread


@dataclass(frozen=True)
class Published:
    """Figures of a publication.

    Attributes:
        source: the publication, and what the figures are of.
        labels: number of labelled cases.
        dice: method of an experiment -> Dice of the structures that a case's label has, 0 to 1.
    """

    source: str
    labels: int
    dice: Mapping[str, float]


def published_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of texts: for each method the published and the measured Dice, in percent.

    Args:
        content: content of results.json, with ``published``. A method's line with the most labels is shown; the
            difference only if these are as many as in the publication.
    """
    published = content["published"]
    lines = {line["method"]: line for line in sorted(content["table"], key=lambda line: line["labels"] or 0)}
    rows = []
    for method in dict.fromkeys([line["method"] for line in content["table"]] + list(published["dice"])):
        given, line = published["dice"].get(method), lines.get(method)
        mean = None if line is None else line["paper_dice"][0]
        measured = with_spread(None if line is None else line["paper_dice"])
        labels = DASH if line is None else str(line["labels"] or "all")
        is_comparable = given is not None and mean is not None and labels == str(published["labels"])
        difference = points(mean - given) if is_comparable else DASH
        rows.append([method, DASH if given is None else f"{100 * given:.2f}", labels, measured, difference])
    return ["method", f"published, {published['labels']} labels", "labels", "measured", "difference"], rows


def published_note(content: Mapping[str, Any]) -> str:
    """What the columns of the table are."""
    return (
        f"Published: {content['published']['source']}. Measured: mean and standard deviation over seeds of the Dice as "
        "in the paper, in percent, over cases whose label has the structure."
    )
