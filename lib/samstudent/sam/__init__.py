"""Segment Anything: models, prompts, and refinement of a student's masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samstudent.sam.refiner import Refiner
    from samstudent.sam.registry import load_backend
    from samstudent.sam.transform import SamRefine, SamRefined

__all__ = ["Refiner", "SamRefine", "SamRefined", "load_backend"]


def __getattr__(name: str) -> Any:
    """Public names, imported at first use: the import of MONAI takes seconds, and every module runs this file."""
    if name in ("SamRefine", "SamRefined"):
        from samstudent.sam import transform

        return getattr(transform, name)
    if name == "Refiner":
        from samstudent.sam.refiner import Refiner

        return Refiner
    if name == "load_backend":
        from samstudent.sam.registry import load_backend

        return load_backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
