"""Provenance of a pseudo label: versions of everything that it depends on; it is stale when any of them changes."""

from __future__ import annotations

import hashlib
import json
import time as clock
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from samstudent.sam.model import SamBackend
from samstudent.task import Task


@dataclass(frozen=True)
class Provenance:
    """Versions that a pseudo label depends on; those of SAM and recipe are empty for the student's own masks."""

    #: SHA-256 of the student's model file.
    student: str
    #: Name of the SAM backend and SHA-256 of its weights.
    sam_backend: str
    sam_digest: str
    recipe_digest: str
    task_digest: str
    #: Seconds since 1970; ignored by ``is_current``.
    time: float = field(default=0.0, compare=False)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def provenance_of(student_version: str, backend: SamBackend | None, task: Task, policy: str = "") -> Provenance:
    """Provenance of a pseudo label made now.

    Args:
        student_version: of the student or the teacher.
        backend: the SAM; None: the masks are the student's own.
        task: the task.
        policy: ``LabelingPolicy.digest``; empty: the task's recipe was used.
    """
    # The sections of the task that a pseudo label depends on.
    relevant = task.model_dump(mode="json", include={"dimension", "structures", "overlap", "image", "student"})
    if backend is None:
        return Provenance(student_version, "", "", "", _digest(relevant), clock.time())
    relevant["thresholds"] = {name: task.threshold_of(name) for name in task.names}
    # The stages that run, because a recipe may leave them to the backend.
    stages = [stage.model_dump(mode="json") for stage in task.recipe.stages_for(backend.name)]
    recipe = task.recipe.model_dump(mode="json") | {"stages": stages, "preprocessing": backend.preprocessing}
    if policy:
        recipe["policy"] = policy
    return Provenance(student_version, backend.name, backend.digest, _digest(recipe), _digest(relevant), clock.time())


def is_current(info: Mapping[str, Any], expected: Provenance) -> bool:
    """Whether the provenance in a label's info equals ``expected``."""
    found = info.get("provenance")
    if not isinstance(found, Mapping):
        return False
    return all(found.get(key) == value for key, value in expected.as_json().items() if key != "time")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
