"""Reference page of the task file, from the models of ``samstudent.task``."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from samstudent.task import Task, shipped_tasks

_HEAD = """\
# Task file

YAML file that defines the structures, the images, the student and the refinement by SAM. `name`, `dimension` and
`structures` are required, with `dimension: 3` also `student.size`; all other keys have defaults. Unknown keys and
invalid values are errors; the message contains the valid ones. Effect of changes on labels and rounds:
[change the task file](../how-to/change-the-task.md).

`--task` is the path of a task file or the name of a shipped task ([configs](../../configs)): {shipped}.
"""
_BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
_NAMES = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Path: "path"}


def page() -> str:
    """Page in Markdown."""
    parts = [_HEAD.format(shipped=", ".join(f"`{name}`" for name in shipped_tasks()))]
    for heading, model in _sections("", Task):
        intro = " ".join((model.__doc__ or "").split()) if heading else ""
        title = f"## `{heading}`" if heading else "## Top level"
        rows = [_row(key, field) for key, field in model.model_fields.items()]
        head = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([title, "", *([intro, ""] if intro else []), *head, *rows, ""]))
    return "\n".join(parts)


def _sections(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and all models of its keys, with their dotted names."""
    yield name, model
    for key, field in model.model_fields.items():
        if (inner := _model_in(field.annotation)) is not None:
            yield from _sections(f"{name}.{key}" if name else key, inner)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _row(key: str, field: FieldInfo) -> str:
    if not field.description:
        print(f"task file: key {key} has no Field(description=...)", file=sys.stderr)
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {_default(field)} | {_allowed(field.annotation, field.metadata)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "see its section"
    return "none" if field.default is None else f"`{_yaml(field.default)}`"


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
        return ", ".join(f"`{_yaml(argument)}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(argument, metadata) for argument in arguments if argument is not type(None))
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} times "
        return f"list of {count}{_allowed(arguments[0], [])}"
    if origin is dict:
        return f"mapping of {_allowed(arguments[0], [])} to {_allowed(arguments[1], [])}"
    if _model_in(annotation) is not None:
        return "a section"
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in metadata
        for kind, (name, sign) in _BOUNDS.items()
        if isinstance(item, kind)
    ]
    pattern = next((item.pattern for item in metadata if getattr(item, "pattern", None)), None)
    like = [f"like `{pattern}`".replace("|", "\\|")] if pattern else []
    return ", ".join([_NAMES[annotation], *bounds, *like])
