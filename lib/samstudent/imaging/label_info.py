"""Names of label values in a client's request: ``label_info``, a list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from samstudent.errors import UserError
from samstudent.imaging.structure_names import find_structure, plain_name
from samstudent.imaging.value_names import HIGHEST_VALUE, NOT_EXPORTED, in_order, is_name


def names_from_label_info(
    info: Mapping[str, Any], values: Collection[int], structures: Iterable[str] = ()
) -> tuple[str, ...] | None:
    """Names of the values of a submitted label map.

    Such a list can be read in two ways. The value is ``idx``; or, in Slicer, the place in the list: Slicer exports its
    segments without background and scribbles and numbers the exported ones from 1, while its ``idx`` counts the skipped
    ones, too. The values in the file decide which of the two is possible.

    Args:
        info: info of a label, ``{"label_info": [{"name": "radius", "idx": 1}, ...], ...}``.
        values: values of the file without 0.
        structures: names of the task's structures, to detect one structure under two names.

    Returns:
        Names, ``names[v - 1]`` for value v, "" for values without a name. None: the info has no ``label_info``.

    Raises:
        UserError: ``label_info`` is not such a list; a value of the file has no name; both readings are possible and
            differ.
    """
    entries = info.get("label_info")
    if entries is None or entries == {} or entries == "":
        return None
    names, indices = _entries(entries, list(structures))
    readings = []
    if all(index is not None for index in indices):
        readings.append({index: name for index, name in zip(indices, names, strict=True) if index})
    numbered = [index for index in indices if index is not None]
    if numbered == sorted(numbered):
        # Slicer's idx is ascending.
        exported = [name for name in names if name not in NOT_EXPORTED]
        readings.append(dict(enumerate(exported, 1)))
    possible = [reading for reading in readings if set(values) <= reading.keys()]
    found = ", ".join(map(str, sorted(values)))
    if not possible:
        listed = ", ".join(f"{index} = {name}" if index else name for index, name in zip(indices, names, strict=True))
        raise UserError(
            f"label_info names {listed or 'no segment'}, but the label map has the values {found}: some of its values "
            "have no name. List a name with its value as idx for each, or submit .seg.nrrd"
        )
    for value in sorted(values):
        candidates = [reading[value] for reading in possible]
        if len(set(candidates)) > 1:
            raise UserError(
                f"label_info can be read in two ways: value {value} of the label map (it has {found}) is "
                f"{candidates[0]!r} by idx, {candidates[1]!r} by its place in the list. Number the entries "
                "from 1 without gaps, or submit .seg.nrrd"
            )
    return in_order(possible[0])


def _entries(entries: Any, structures: Sequence[str]) -> tuple[list[str], list[int | None]]:
    """Names and indices of a ``label_info``, checked."""
    example = '[{"name": "radius", "idx": 1}]'
    if not isinstance(entries, list) or any(not isinstance(e, dict) or "name" not in e for e in entries):
        raise UserError(f"label_info: expected a list like {example}, not {entries!r}")
    names, seen = list[str](), dict[str, str]()
    indices: list[int | None] = []
    for entry in entries:
        name, index = entry["name"], entry.get("idx")
        if not is_name(name):
            raise UserError(f"label_info: a name must be a text that is not empty, not {name!r}; expected {example}")
        key = find_structure(name, structures) or plain_name(name)
        if key in seen:
            raise UserError(f"label_info names one structure twice: {seen[key]!r} and {name!r}")
        seen[key] = name
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
            raise UserError(f"label_info: idx of {name!r} must be a whole number, not {index!r}")
        if index is not None and not 0 <= index <= HIGHEST_VALUE:
            raise UserError(f"label_info: idx of {name!r} must be from 1 to {HIGHEST_VALUE}, not {index}")
        if index == 0 and plain_name(name) != "background":
            raise UserError(f"label_info: idx 0 is the background, so {name!r} cannot have it; count from 1")
        if index is not None and index in indices:
            raise UserError(f"label_info: idx {index} is used twice, for {names[indices.index(index)]!r} and {name!r}")
        names.append(name.strip())
        indices.append(index)
    if None in indices and any(index is not None for index in indices):
        raise UserError(f"label_info: {names[indices.index(None)]!r} has no idx; give every entry one, or none")
    return names, indices
