"""Lists of films as CSV, and what the name of a film of GRAZPEDWRI-DX states about it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samstudent.errors import UserError
from samstudent.imaging.file_names import IMAGES, case_id, split_name

#: Names of the column of films: in the paper's lists and in dataset.csv of GRAZPEDWRI-DX.
FILM_COLUMNS = ("file_stem", "filestem", "id")
#: Side and projection in a film's name, e.g. 0399_0640929626_01_WRI-L1_M006: patient, study, number, side and
#: projection, sex and age.
_VIEW = re.compile(r"_WRI-(?P<side>[LR])(?P<projection>\d)(_|$)")


@dataclass(frozen=True)
class View:
    """What a film shows.

    Attributes:
        right: a right hand.
        frontal: projection 1 of GRAZPEDWRI-DX, posteroanterior; the paper uses no other.
    """

    right: bool
    frontal: bool


def view_in_name(film: str) -> View | None:
    """View by the name of a film; None: the name does not state it."""
    found = _VIEW.search(film)
    return None if found is None else View(found["side"] == "R", found["projection"] == "1")


def read_dataset(path: Path) -> dict[str, View]:
    """View of each film in ``dataset.csv`` of GRAZPEDWRI-DX.

    Raises:
        UserError: not a CSV with ``filestem``, ``laterality`` (L or R) and ``projection`` (a number).
    """
    views = {}
    for film, row in read_films(path, ("laterality", "projection")).items():
        side, projection = row["laterality"].upper(), row["projection"]
        if side not in ("L", "R") or not projection.replace(".", "").isdigit():
            raise UserError(
                f"{path}: film {film}: laterality {side!r}, projection {projection!r}; expected L or R, and a number"
            )
        # pandas writes whole numbers of a column with gaps as 1.0.
        views[film] = View(side == "R", float(projection) == 1)
    return views


def read_films(path: Path, needed: tuple[str, ...] = ()) -> dict[str, Mapping[str, str]]:
    """Rows of a CSV by film, in its order; a column ``file_stem``, ``filestem`` or ``id`` has the film.

    Args:
        path: CSV with a header; a film may have an extension.
        needed: further columns that must be there.

    Returns:
        Film -> its row, without spaces around the values.

    Raises:
        UserError: no text, a column is missing, no row has a film, or a film is there twice.
    """
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or []]
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV: {error}") from error
    column = next((name for name in FILM_COLUMNS if name in columns), None)
    if column is None or (missing := [name for name in needed if name not in columns]):
        expected = f"one of {', '.join(FILM_COLUMNS)}" if column is None else ", ".join(missing)
        raise UserError(f"{path}: has the columns {', '.join(columns) or 'none'}; expected {expected}")
    films: dict[str, Mapping[str, str]] = {}
    for number, row in enumerate(rows, 2):
        clean = {str(key).strip(): str(value or "").strip() for key, value in row.items()}
        if not clean[column]:
            continue
        film = case_id(split_name(clean[column], IMAGES)[0])
        if film in films:
            raise UserError(f"{path}: line {number}: film {film} is there twice")
        films[film] = clean
    if not films:
        raise UserError(f"{path}: names no film in its column {column}")
    return films
