"""Tables of a label map's values: value -> name of the structure, from JSON, CSV or text."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samstudent.errors import NotFound, UserError
from samstudent.imaging.value_names import HIGHEST_VALUE

#: Files beside labels that are taken as their table, the first that exists.
TABLES = ("values.csv", "labels.csv", "values.json", "labels.json", "dataset.json", "structures.txt")
_FORMS = (
    'expected JSON like {"1": "radius"}, {"radius": 1} or ["radius", "ulna"], CSV with the columns value,structure, '
    "or text with one name a line"
)
_VALUE_COLUMNS, _NAME_COLUMNS = ("value", "label", "id"), ("structure", "name")


def read_table(path: Path) -> dict[int, str]:
    """Value -> name of a structure, without the background.

    JSON may be an object of names by value, of values by name (as in nnU-Net's ``dataset.json``, whose key ``labels``
    is taken), or a list, whose first name has value 1. CSV has a header with a column ``value`` (or ``label``, ``id``)
    and a column ``structure`` (or ``name``). Text has the name of value 1 in its first line.

    Raises:
        NotFound: no such file.
        UserError: not of these forms; a value is no whole number from 0 to 65535, or there twice with different names.
    """
    if not path.is_file():
        raise NotFound(f"{path}: no such file; {_FORMS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; {_FORMS}") from error
    if path.suffix.lower() == ".json":
        pairs = _pairs_of_json(text, path)
    elif path.suffix.lower() == ".csv":
        pairs = _pairs_of_csv(text, path)
    else:
        pairs = [(value, line.strip()) for value, line in enumerate(text.split("\n"), 1)]
    table: dict[int, str] = {}
    for value, name in pairs:
        if value and name and table.setdefault(value, name) != name:
            raise UserError(f"{path}: value {value} is there twice, as {table[value]!r} and {name!r}")
    if not table:
        raise UserError(f"{path}: names no structure; {_FORMS}")
    return table


def table_beside(folder: Path) -> Path | None:
    """The first of ``TABLES`` in a folder; None: there is none."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def structure_name(name: str) -> str:
    """A name of another tool in a form that a task file allows; "": nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9 _.\-]", "_", name.strip()).lstrip(" _.-")[:64].rstrip()


def _pairs_of(content: Any, place: str) -> list[tuple[int, str]]:
    """(value, name) of JSON values in one of the forms of ``read_table``. Raises UserError: another form."""
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [(value, name.strip()) for value, name in enumerate(content, 1)]
    if not isinstance(content, Mapping):
        raise UserError(f"{place}: {_FORMS}")
    # Names may be numbers, as those of teeth are; a value of a JSON object decides which of both it is.
    pairs = [(value, key) if isinstance(value, int) else (key, value) for key, value in content.items()]
    return [(_value(value, place), _name(name, place)) for value, name in pairs]


def _pairs_of_json(text: str, path: Path) -> list[tuple[int, str]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}; {_FORMS}") from error
    if isinstance(content, dict) and isinstance(content.get("labels"), (dict, list)):
        content = content["labels"]
    return _pairs_of(content, str(path))


def _pairs_of_csv(text: str, path: Path) -> list[tuple[int, str]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
    value, name = (next((columns[c] for c in some if c in columns), None) for some in (_VALUE_COLUMNS, _NAME_COLUMNS))
    if value is None or name is None:
        raise UserError(f"{path}: has the columns {', '.join(columns) or 'none'}; {_FORMS}")
    return [
        (_value((row[value] or "").strip(), f"{path}, line {reader.line_num}"), (row[name] or "").strip())
        for row in reader
    ]


def _value(value: Any, place: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and int(text) <= HIGHEST_VALUE):
        raise UserError(f"{place}: value {text!r} is not a whole number from 0 to {HIGHEST_VALUE}; {_FORMS}")
    return int(text)


def _name(name: Any, place: str) -> str:
    if not isinstance(name, str):
        raise UserError(f"{place}: {name!r} is no name of a structure; {_FORMS}")
    return name.strip()
