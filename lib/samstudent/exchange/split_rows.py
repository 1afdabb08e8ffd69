"""Rows of a study's ``split.csv`` for imported test cases."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

from samstudent.imaging.file_names import IMAGES, split_name
from samstudent.rounds.holdout import read_split
from samstudent.util.files import atomic_write

_HEADER = ["id", "split"]


def add_tests(path: Path, cases: Collection[str]) -> dict[str, str]:
    """List cases as test cases in a ``split.csv``, which is created if missing; other rows stay as they are.

    Returns:
        Cases that the file lists as train or val -> that split; they stay so.

    Raises:
        UserError: the file is not valid.
    """
    listed = read_split(path) if path.is_file() else {}
    # A row may have the extension of the image.
    rows = {split_name(case, IMAGES)[0]: part for case, part in listed.items()} | listed
    others = {case: rows[case] for case in cases if rows.get(case, "test") != "test"}
    new = sorted(case for case in cases if case not in rows)
    if new:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ",".join(_HEADER) + "\n"
        header = [name.strip() for name in next(csv.reader(text.splitlines()))]
        added = io.StringIO()
        writer = csv.DictWriter(added, header, restval="", lineterminator="\n")
        writer.writerows({"id": case, "split": "test"} for case in new)
        atomic_write(path, text + ("" if text.endswith("\n") else "\n") + added.getvalue())
    return others
