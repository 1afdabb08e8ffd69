"""``/info``: description of the app for 3D Slicer's module and OHIF."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from samstudent import __version__
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.roles import require
from samstudent.server.context import Context, ServerContext

router = APIRouter(prefix="/info", tags=["App"], route_class=BoundedRoute)


@router.get("/", summary="Models, trainers, strategies, and counts of the study", dependencies=[require("user")])
def get_info(context: Context) -> dict[str, Any]:
    return app_info(context)


def app_info(context: ServerContext) -> dict[str, Any]:
    """Description of the app; without models that cannot be used at the moment."""
    tasks = context.tasks
    models = {name: model.info() for name, model in tasks.models.items() if model.is_valid()}
    return {
        "name": context.name,
        "description": context.description,
        "version": __version__,
        "labels": _structures(models),
        "models": models,
        "trainers": {name: trainer.info() for name, trainer in tasks.trainers.items()},
        "strategies": {name: strategy.info() for name, strategy in tasks.strategies.items()},
        "scoring": {name: method.info() for name, method in tasks.scoring.items()},
        "train_stats": {name: trainer.stats() for name, trainer in tasks.trainers.items()},
        "datastore": context.datastore.status(),
    }


def _structures(models: dict[str, Any]) -> list[str]:
    """Names of all structures in the order of the models; a list, because OHIF appends to it."""
    names: dict[str, None] = {}
    for model in models.values():
        labels = model.get("labels") or []
        ordered = sorted(labels, key=labels.__getitem__) if isinstance(labels, dict) else labels
        names.update(dict.fromkeys(ordered))
    return list(names)
