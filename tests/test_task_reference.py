"""docs/reference/task-file.md says of every key what the models say; its fourth column, the meaning, is prose."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from samstudent import task

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reference" / "task-file.md"
#: Heading of the document -> model. Sections of the task are headed by their key.
SECTIONS: dict[str, type[BaseModel]] = {
    "top level": task.Task,
    "codes": task.Code,
    "image": task.ImageSection,
    "student": task.StudentSection,
    "sam": task.SamSection,
    "recipe": task.Recipe,
    "recipe.stages": task.Stage,
    "training": task.TrainingSection,
    "pseudo_labels": task.PseudoLabelSection,
    "holdout": task.HoldOutSection,
    "active_learning": task.ActiveLearningSection,
    "schedule": task.ScheduleSection,
}
_BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def documented() -> dict[str, dict[str, tuple[str, str]]]:
    """Heading -> key -> (default, allowed), as the document's tables have them."""
    sections: dict[str, dict[str, tuple[str, str]]] = {}
    for block in re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = block.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| .+ \|$", body, flags=re.MULTILINE)
        if rows:
            sections[heading.strip("` ")] = {key: (default, allowed) for key, default, allowed in rows}
    return sections


def modelled(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Key -> (default, allowed) of a model, in the document's words."""
    return {
        key: (_default(field), _allowed(field.annotation, field.metadata)) for key, field in model.model_fields.items()
    }


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "see its section"
    if value is None:
        return "none"
    return f"`{_yaml(value)}`"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return '""' if value == "" else str(value)


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for extra in arguments[1:] for part in getattr(extra, "metadata", [extra])]
        return _allowed(arguments[0], inner)
    if origin is Literal:
        return ", ".join(f"`{_yaml(a)}`" for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(a, metadata) for a in arguments if a is not type(None))
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} times "
        return f"list of {count}{_allowed(arguments[0], [])}"
    if origin is dict:
        return f"mapping of {_allowed(arguments[0], [])} to {_allowed(arguments[1], [])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Path: "path"}
    bounds = [
        f"{sign} {getattr(m, name):g}"
        for m in metadata
        for kind, (name, sign) in _BOUNDS.items()
        if isinstance(m, kind)
    ]
    pattern = next((m.pattern for m in metadata if getattr(m, "pattern", None)), None)
    like = [f"like `{pattern}`".replace("|", "\\|")] if pattern else []
    return ", ".join([names[annotation], *bounds, *like])


def test_every_section_is_documented() -> None:
    assert list(documented()) == list(SECTIONS)


@pytest.mark.parametrize("heading", SECTIONS)
def test_keys_defaults_and_values_are_those_of_the_model(heading: str) -> None:
    assert documented()[heading] == modelled(SECTIONS[heading])
