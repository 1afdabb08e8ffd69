"""``/info``: description of the app for 3D Slicer's module and OHIF."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from samstudent import __version__
from samstudent.pseudolabels.policy import POLICY_FILE
from samstudent.pseudolabels.recipe_choice import RecipeChoice
from samstudent.rounds.study import Study
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.roles import require
from samstudent.server.context import Context, ServerContext

router = APIRouter(prefix="/info", tags=["App"], route_class=BoundedRoute)


@router.get("/", summary="Models, trainers, strategies, and counts of the study", dependencies=[require("user")])
def get_info(context: Context) -> dict[str, Any]:
    return app_info(context)


def app_info(context: ServerContext) -> dict[str, Any]:
    """Description of the app; without models that cannot be used at the moment.

    The best model for all structures is the first one. With *Auto-Run Pre-Trained Model*, 3D Slicer's module runs the
    first model whose labels contain a structure of the app, as segmentation model. Without such a model the others are
    listed without labels, so that the module runs none, in place of an error.
    """
    tasks = context.tasks
    models = {name: model.info() for name, model in _best_first(context) if model.is_valid()}
    if not any(info["type"] == InferType.SEGMENTATION for info in models.values()):
        models = {name: info | {"labels": {}} for name, info in models.items()}
    return {
        "name": context.name,
        "description": context.description,
        "version": __version__,
        # A list, because OHIF appends to it.
        "labels": sorted(context.task.structures, key=context.task.structures.__getitem__),
        "models": models,
        "trainers": {name: trainer.info() for name, trainer in tasks.trainers.items()},
        "strategies": {name: strategy.info() for name, strategy in tasks.strategies.items()},
        "scoring": {name: method.info() for name, method in tasks.scoring.items()},
        "train_stats": {name: trainer.stats() for name, trainer in tasks.trainers.items()},
        "datastore": context.datastore.status(),
    }


def _best_first(context: ServerContext) -> list[tuple[str, InferTask]]:
    """Models by name, the best one for all structures first."""
    best = "student+sam" if sam_is_better(context.study) else "student"
    return sorted(context.tasks.models.items(), key=lambda item: item[0] != best)


def sam_is_better(study: Study) -> bool:
    """Whether SAM improves the masks of the served student, by the labeling policy of its round.

    The policy selects SAM's mask for a structure only if it was better on labelled cases that were left out. The files
    are read here, because ``Study.policy_of`` loads SAM. Without a policy there is no evidence for SAM; a task with
    the fixed policy requires it.
    """
    if study.task.pseudo_labels.policy == "fixed":
        return True
    try:
        path = study.ledger.champion_path()
        content = json.loads((study.policy_folder(path.parent.name) / POLICY_FILE).read_bytes()) if path else {}
        recipes = RecipeChoice.from_json(content["choice"]).recipes
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return any(recipe.source != "student" for recipe in recipes.values())
