"""Names of a label map's values in a client's list."""

from __future__ import annotations

from typing import Any

import pytest

from samstudent.errors import UserError
from samstudent.imaging.label_info import names_from_label_info


def info_of(*entries: tuple[Any, Any]) -> dict[str, Any]:
    return {"label_info": [{"name": name, "idx": idx} for name, idx in entries], "client_id": "x"}


@pytest.mark.parametrize(
    ("entries", "values", "named"),
    [
        ([("radius", 1), ("ulna", 2)], {1, 2}, {1: "radius", 2: "ulna"}),
        # Slicer with a background segment in front, or scribbles between: idx counts them, the voxels do not.
        ([("radius", 2), ("ulna", 3)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("radius", 2), ("ulna", 3)], {1}, {1: "radius"}),
        ([("radius", 1), ("ulna", 4)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("lunate", 3), ("ulna", 5), ("radius", 6)], {1, 2, 3}, {1: "lunate", 2: "ulna", 3: "radius"}),
        # The values show that a client means its idx.
        ([("radius", 2), ("ulna", 3)], {2, 3}, {2: "radius", 3: "ulna"}),
        ([("radius", 2), ("ulna", 3)], {3}, {3: "ulna"}),
        ([("radius", 10), ("ulna", 255)], {255}, {255: "ulna"}),
        ([("radius", 2.0), ("ulna", 3.0)], {2, 3}, {2: "radius", 3: "ulna"}),
        # Both readings are possible and say the same of what is there.
        ([("radius", 1), ("ulna", 4)], {1}, {1: "radius"}),
        # A client that does send the background.
        ([("background", 0), ("radius", 1), ("ulna", 2)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("background", 1), ("radius", 2)], {1, 2}, {1: "background", 2: "radius"}),
        # Slicer never sends them in another order, so a client means them.
        ([("ulna", 2), ("radius", 1)], {1, 2}, {1: "radius", 2: "ulna"}),
        ([("ulna", 3), ("radius", 2)], {2}, {2: "radius"}),
        ([("ulna", None), ("radius", None)], {1, 2}, {1: "ulna", 2: "radius"}),
        ([(" ulna ", 1), ("ignore:radius", 2)], {1, 2}, {1: "ulna", 2: "ignore:radius"}),
    ],
)
def test_names_are_read_from_label_info(
    entries: list[tuple[Any, Any]], values: set[int], named: dict[int, str]
) -> None:
    names = names_from_label_info(info_of(*entries), values)
    assert names is not None
    by_value = dict(enumerate(names, 1))
    assert {value: by_value[value] for value in values} == {value: named[value] for value in values}


@pytest.mark.parametrize(
    ("entries", "values", "message"),
    [
        ([("radius", 2), ("ulna", 3)], {2}, r"two ways: value 2 .*'radius' by idx, 'ulna' by its place"),
        ([("background", 1), ("radius", 2)], {1}, "two ways: value 1"),
        ([("radius", 2), ("ulna", 3)], {1, 3}, r"names 2 = radius, 3 = ulna, but .* values 1, 3"),
        ([("radius", 1)], {1, 2}, "1 = radius, but .* values 1, 2"),
        ([("ulna", 3), ("radius", 2)], {1}, "values 1"),
        ([], {1}, "names no segment, but"),
        ([("radius", 1), ("Radius ", 2)], {1}, "one structure twice: 'radius' and 'Radius '"),
        ([("radius", 1), ("ulna", 1)], {1}, "idx 1 is used twice, for 'radius' and 'ulna'"),
        ([("", 1)], {1}, "must be a text that is not empty, not ''"),
        ([("  ", 1)], {1}, "must be a text that is not empty"),
        ([(3, 1)], {1}, "must be a text that is not empty, not 3"),
        ([(None, 1)], {1}, "must be a text"),
        ([("radius", "1")], {1}, "idx of 'radius' must be a whole number, not '1'"),
        ([("radius", True)], {1}, "whole number, not True"),
        ([("radius", 1.5)], {1}, "whole number, not 1.5"),
        ([("radius", -1)], {1}, "from 1 to 65535, not -1"),
        ([("radius", 10**9)], {1}, "from 1 to 65535"),
        ([("radius", 0), ("ulna", 1)], {1}, "idx 0 is the background"),
        ([("radius", 1), ("ulna", None)], {1}, "'ulna' has no idx"),
    ],
)
def test_ambiguous_lists_are_refused(entries: list[tuple[Any, Any]], values: set[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        names_from_label_info(info_of(*entries), values)


def test_invalid_label_info_is_refused_and_empty_label_info_accepted() -> None:
    assert names_from_label_info({}, {1}) is None and names_from_label_info({"label_info": []}, set()) == ()
    for wrong in ("radius", [1, 2], [{"idx": 1}], {"radius": 1}):
        with pytest.raises(UserError, match="label_info"):
            names_from_label_info({"label_info": wrong}, set())


def test_structures_with_similar_names_are_distinguished() -> None:
    names = names_from_label_info(info_of(("a b", 1), ("a_b", 2)), {1, 2}, ["a b", "a_b"])
    assert names == ("a b", "a_b")
    with pytest.raises(UserError, match="twice"):
        names_from_label_info(info_of(("a b", 1), ("a_b", 2)), {1, 2}, ["a b"])
