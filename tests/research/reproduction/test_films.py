"""Lists of films, and side and projection of a film."""

from __future__ import annotations

from pathlib import Path

import pytest

from samstudent.errors import UserError
from samstudent.research.reproduction.films import View, read_dataset, read_films, view_in_name


@pytest.mark.parametrize(
    ("film", "view"),
    [
        ("0399_0640929626_01_WRI-L1_M006", View(right=False, frontal=True)),
        ("5791_0288377040_02_WRI-R1_F009", View(right=True, frontal=True)),
        ("3001_0467767722_01_WRI-L2_F005", View(right=False, frontal=False)),
        ("0172_0304693626_01_WRI-R1", View(right=True, frontal=True)),
        ("film_7", None),
    ],
)
def test_view_in_name(film: str, view: View | None) -> None:
    assert view_in_name(film) == view


def test_list_keeps_its_order_and_further_columns(tmp_path: Path) -> None:
    path = tmp_path / "order.csv"
    path.write_text("\ufeff,file_stem,split\n0, b_WRI-L1_M1.png ,val\n1,a.b,\n2,,\n", encoding="utf-8")
    found = read_films(path)
    assert list(found) == ["b_WRI-L1_M1", "a.b"]
    assert [row["split"] for row in found.values()] == ["val", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\na\n", "has the columns name; expected one of file_stem, filestem, id"),
        ("", "has the columns none; expected one of file_stem"),
        ("file_stem\n", "names no film in its column file_stem"),
        ("file_stem\na\nb\na.png\n", "line 4: film a is there twice"),
    ],
)
def test_fault_of_a_list(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "order.csv").write_text(text)
    with pytest.raises(UserError, match=rf"order\.csv: {message}"):
        read_films(tmp_path / "order.csv")


def test_dataset_of_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "dataset.csv"
    path.write_text("filestem,age,laterality,projection\na,6.5,L,1\nb,7,R,1.0\nc,8,R,2\n")
    assert read_dataset(path) == {"a": View(False, True), "b": View(True, True), "c": View(True, False)}
    path.write_text("filestem,laterality\na,L\n")
    with pytest.raises(UserError, match=r"dataset\.csv: has the columns filestem, laterality; expected projection"):
        read_dataset(path)
    path.write_text("filestem,laterality,projection\na,left,1\n")
    with pytest.raises(UserError, match=r"film a: laterality 'LEFT', projection '1'; expected L or R, and a number"):
        read_dataset(path)
