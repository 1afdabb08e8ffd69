"""Hold-out of a study: cases that compare models and never train.

A case is assigned when it is first registered, before it has a label. If it were assigned later, when its label
arrives, a pseudo label of it might already have trained a model, and the comparison would be biased.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from samstudent.errors import UserError
from samstudent.imaging.case import image_extensions
from samstudent.imaging.file_names import group_of, row_id
from samstudent.util.files import atomic_write, file_stamp

#: Number of labelled cases at the first registration from which at least one is reserved; otherwise a small, fully
#: labelled study would have no hold-out.
MIN_LABELLED = 5
SPLITS = ("train", "val", "test")
#: Endings of file names in rows ("0001.png" for the id "0001"). Known endings only: ids of DICOM series contain dots,
#: too.
_ENDING = re.compile(f"({'|'.join(map(re.escape, image_extensions()))})$", re.IGNORECASE)


class _Group(BaseModel):
    """Cases that were labelled, or unlabelled, when first registered."""

    model_config = ConfigDict(extra="forbid")
    seen: list[str] = []
    reserved: list[str] = []
    #: Sum over the cases of the fraction at their registration; ``round(quota)`` of them are reserved. Stored, because
    #: a later change of the fraction applies to later cases only.
    quota: float = 0.0


class _State(BaseModel):
    model_config = ConfigDict(extra="forbid")
    labelled: _Group = _Group()
    unlabelled: _Group = _Group()
    #: Validation rows of split.csv.
    listed: list[str] = []


class HoldOut:
    """Reserved cases of one study, in ``holdout.json``. Any number of processes may use the same file at once.

    Rules:
        - Cases are ranked by the SHA-256 of their id; the first ``round(fraction * n)`` are reserved, but never all of
          them. Cases with and without a human label at their registration are counted separately; of five or more
          labelled ones at least one is reserved.
        - Later cases extend the hold-out by the same fraction. A reserved case stays reserved, and a case that may
          train is never reserved later.
        - Frames of one clip, and images of one DICOM folder, are reserved together or not at all (``group_of``): a
          student that trained on a frame must not be measured on its neighbour.
        - With a ``split.csv`` (columns ``id``, ``split`` and optionally ``train_order``) its ``val`` rows are the
          hold-out and all other cases train, also those that it does not list; without a ``val`` row the fraction above
          is reserved. Its ``test`` rows are ``excluded`` from training, pseudo labels and selection. The file should
          exist before the first round; a row that becomes ``val`` after it has trained is reserved from then on, but
          models that trained on it are not compared on it (``rounds.trained``).
    """

    def __init__(
        self,
        path: Path,
        fraction: float,
        split_file: Path | None = None,
        flagged: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Open a hold-out.

        Args:
            path: the study's ``holdout.json``; created by the first ``extend``.
            fraction: fraction of the cases to reserve, 0 <= fraction < 1; 0 reserves none.
            split_file: the study's ``split.csv``; need not exist.
            flagged: returns the cases that are flagged as unusable.
        """
        if not 0 <= fraction < 1:
            raise UserError(f"holdout.fraction must be at least 0 and below 1, not {fraction}")
        self.path = path
        self.fraction = fraction
        self.split_file = split_file
        self._flagged = flagged
        self._cached: tuple[object, _State] = (None, _State())
        self._cached_rows: tuple[object, dict[str, str]] = (None, {})

    @property
    def ids(self) -> frozenset[str]:
        """The reserved cases, by the datastore's ids."""
        state = self._load()
        return frozenset(state.labelled.reserved + state.unlabelled.reserved + state.listed) - self.excluded

    @property
    def excluded(self) -> frozenset[str]:
        """Cases without training, pseudo labels and selection: test rows of split.csv, with and without the ending of
        a file, and flagged cases."""
        return self._listed("test") | frozenset(self._flagged())

    def extend(self, all_ids: Iterable[str], labelled_ids: Iterable[str]) -> None:
        """Register new cases: assign each to the hold-out or the training. Cheap without new cases.

        Args:
            all_ids: every case of the datastore.
            labelled_ids: those with a human label.

        Raises:
            UserError: holdout.json or split.csv is not valid; the message names file and line.
        """
        labelled = set(labelled_ids)
        every = (set(all_ids) | labelled) - self.excluded
        listed = self._listed("val") & every
        if self._is_settled(self._load(), every, listed):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self.path) + ".lock"):
            state = self._load().model_copy(deep=True)
            state.listed = sorted({*state.listed, *listed})
            new = every - self._seen(state) - listed
            # With a hold-out in split.csv all other cases train.
            fraction = 0.0 if "val" in self._rows().values() else self.fraction
            new = _follow_groups(state, new)
            with_label = {group_of(case) for case in labelled}
            among = {case for case in new if group_of(case) in with_label}
            _extend(state.labelled, among, fraction, at_least_one=True)
            _extend(state.unlabelled, new - among, fraction, at_least_one=False)
            atomic_write(self.path, state.model_dump_json(indent=1))

    def split(self, labelled_ids: Iterable[str]) -> tuple[list[str], list[str]]:
        """Split human-labelled cases into (training cases, hold-out cases), each sorted.

        Excluded cases are in neither. New cases are registered first.
        """
        labelled = sorted(set(labelled_ids))
        self.extend(labelled, labelled)
        reserved, excluded = self.ids, self.excluded
        train = [case for case in labelled if case not in reserved and case not in excluded]
        return train, [case for case in labelled if case in reserved]

    def trainable(self, ids: Iterable[str]) -> list[str]:
        """Cases, sorted, that may train with a human label or a pseudo label: neither reserved nor excluded.

        Cases that are not registered are left out: call ``extend`` with the whole datastore first.
        """
        allowed = self._seen(self._load()) - self.ids - self.excluded
        return sorted(set(ids) & allowed)

    @staticmethod
    def _seen(state: _State) -> set[str]:
        return {*state.labelled.seen, *state.unlabelled.seen, *state.listed}

    def _is_settled(self, state: _State, every: set[str], listed: frozenset[str] | set[str]) -> bool:
        return listed <= set(state.listed) and every <= self._seen(state)

    def _load(self) -> _State:
        key = file_stamp(self.path)
        if key is None:
            return _State()
        if self._cached[0] != key:
            try:
                state = _State.model_validate_json(self.path.read_bytes())
            except ValidationError as error:
                raise UserError(
                    f"{self.path}: not a hold-out file ({error.errors()[0]['msg']}). Restore it from a backup: it "
                    "lists the cases that must not train"
                ) from error
            for group in (state.labelled, state.unlabelled):
                group.seen, group.reserved = _composed(group.seen), _composed(group.reserved)
            state.listed = _composed(state.listed)
            self._cached = (key, state)
        return self._cached[1]

    def _rows(self) -> dict[str, str]:
        """Case id -> train, val or test; empty without a split.csv."""
        key = file_stamp(self.split_file) if self.split_file else None
        if self._cached_rows[0] != key:
            self._cached_rows = (key, read_split(self.split_file) if key and self.split_file else {})
        return self._cached_rows[1]

    def _listed(self, split: str) -> frozenset[str]:
        rows = self._rows()
        exact = {case for case, value in rows.items() if value == split}
        # A row with the id itself takes precedence over a row with an ending.
        return frozenset(exact | {_ENDING.sub("", case) for case in exact} - (set(rows) - exact))


def _extend(group: _Group, new: set[str], fraction: float, at_least_one: bool) -> None:
    """Reserve the fraction of the new cases with the lowest hashes."""
    if not new:
        return
    group.seen = sorted({*group.seen, *new})
    # Rounded, because the sum of ten times 0.1 is not 1 in floating point.
    group.quota = round(group.quota + fraction * len(new), 9)
    target = round(group.quota)
    if at_least_one and fraction > 0 and len(group.seen) >= MIN_LABELLED:
        target = max(target, 1)
    due = min(target, len(group.seen) - 1) - len(group.reserved)
    parts: dict[str, list[str]] = {}
    for case in sorted(new, key=lambda case: hashlib.sha256(group_of(case).encode()).digest()):
        parts.setdefault(group_of(case), []).append(case)
    taken: list[str] = []
    for cases in parts.values():
        # Of several cases together those that come closest to the share; never all.
        if 2 * (due - len(taken)) >= len(cases) and len(group.reserved) + len(taken) + len(cases) < len(group.seen):
            taken += cases
    group.reserved = sorted({*group.reserved, *taken})


def _follow_groups(state: _State, new: set[str]) -> set[str]:
    """Assign new cases whose clip or folder is registered already as the others of it; returns the rest."""
    rest = set(new)
    for group in (state.labelled, state.unlabelled):
        known = {group_of(case): case in group.reserved for case in group.seen}
        joined = {case for case in rest if group_of(case) in known and group_of(case) != case}
        group.seen = sorted({*group.seen, *joined})
        group.reserved = sorted({*group.reserved, *(case for case in joined if known[group_of(case)])})
        rest -= joined
    return rest


def _composed(ids: Iterable[str]) -> list[str]:
    """Ids in the datastore's Unicode form (NFC): file names of macOS are decomposed."""
    return sorted({unicodedata.normalize("NFC", case) for case in ids})


def read_split(path: Path) -> dict[str, str]:
    """Read a ``split.csv``: case id -> ``train``, ``val`` or ``test``.

    Raises:
        UserError: with the line (the header is line 1) and the valid content.
    """
    expected = "expected the columns id,split and optionally train_order, separated by commas"
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; {expected}") from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    if not {"id", "split"} <= set(reader.fieldnames or ()):
        raise UserError(f"{path}, line 1: {expected}, not {reader.fieldnames}")
    rows: dict[str, str] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        case, split = _checked_row(row, where)
        if rows.setdefault(case, split) != split:
            raise UserError(f"{where}: {case!r} is listed as {rows[case]} before and as {split} here; leave one row")
    for case, split in rows.items():
        if (other := rows.get(_ENDING.sub("", case), split)) != split:
            raise UserError(f"{path}: {case!r} is {split}, but {_ENDING.sub('', case)!r} is {other}; leave one row")
    return rows


def _checked_row(row: dict[str, Any], where: str) -> tuple[str, str]:
    if None in row or None in row.values():
        raise UserError(f"{where}: not as many values as the header has columns: {json.dumps(list(row.values()))}")
    case, split, order = row_id(row["id"].strip()), row["split"].strip(), row.get("train_order", "").strip()
    if not row["id"].strip():
        raise UserError(f"{where}: the id is empty")
    if split not in SPLITS:
        raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, not {split!r}")
    if order and not order.isdecimal():
        raise UserError(f"{where}: train_order must be a whole number or empty, not {order!r}")
    return case, split
