from __future__ import annotations

import unicodedata

import pytest

from samstudent.imaging.structure_names import find_structure, plain_name

STRUCTURES = ["left_lung", "vessel", "Müller", "tooth 1", "tooth-1", "tooth 11"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vessel", "vessel"),
        ("Vessel", "vessel"),
        (" vessel ", "vessel"),
        ("Left Lung", "left_lung"),
        (unicodedata.normalize("NFD", "Müller"), "Müller"),
        ("tooth 1", "tooth 1"),
        ("tooth_1", None),  # two are alike: neither is guessed
        ("tooth 11", "tooth 11"),
        ("nerve", None),
        ("", None),
    ],
)
def test_name_matches_the_only_similar_structure(name: str, expected: str | None) -> None:
    assert find_structure(name, STRUCTURES) == expected


def test_plain_name_keeps_distinguishing_characters() -> None:
    assert plain_name("tooth 1.1") != plain_name("tooth 11")
