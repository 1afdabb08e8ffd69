"""Tables of values in each form."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.errors import NotFound, UserError
from samstudent.exchange.value_table import read_table, table_beside


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"0": "background", "1": "radius", "7": "ulna"}'),
        ("b.json", '{"background": 0, "radius": 1, "ulna": 7}'),
        ("c.json", '{"labels": {"radius": 1, "ulna": 7}, "channel_names": {"0": "x"}}'),
        ("d.csv", "value,structure\n0,background\n1,radius\n7, ulna\n"),
        ("e.csv", "\ufeffid, Name, color\n7,ulna,red\n1,radius,blue\n"),
        ("f.txt", "radius\n\n\n\n\n\nulna\n"),
        ("g.json", '["radius", "", "", "", "", "", "ulna"]'),
    ],
)
def test_every_form_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_table(tmp_path / name) == {1: "radius", 7: "ulna"}


def test_names_may_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"11": 1, "12": 2}')
    assert read_table(tmp_path / "a.json") == {1: "11", 2: "12"}
    (tmp_path / "a.json").write_text('{"1": "11", "2": "12"}')
    assert read_table(tmp_path / "a.json") == {1: "11", 2: "12"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json: not valid JSON"),
        ("a.json", '{"x": "radius"}', "value 'x' is not a whole number"),
        ("a.json", '{"radius": -1}', "value '-1' is not a whole number"),
        ("a.json", '{"1": {"name": "radius"}}', "no name of a structure"),
        ("a.json", "3", "expected JSON like"),
        ("a.csv", "a,b\n1,radius\n", "has the columns a, b"),
        ("a.csv", "value,structure\n1,radius\n1,ulna\n", "value 1 is there twice, as 'radius' and 'ulna'"),
        ("a.csv", "value,structure\none,radius\n", "line 2: value 'one'"),
        ("a.txt", "\n", "names no structure"),
    ],
)
def test_faults_name_file_and_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / name)


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"table\.csv: no such file"):
        read_table(tmp_path / "table.csv")
    assert table_beside(tmp_path) is None
