"""``/model``: download of model weights. Weights are replaced by promotion of a round."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from monailabel.utils.others.generic import file_checksum

from samstudent.errors import NotFound
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.disabled_endpoints import Disabled
from samstudent.server.api.uploads import file_response
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, ServerContext

router = APIRouter(
    prefix="/model", tags=["Model"], route_class=BoundedRoute, responses={404: {"description": "no such model"}}
)
_PROMOTE = "weights are replaced by promotion of a round: POST /samstudent/rounds/<id>/promote"


@router.get("/{model}", summary="Download a model's weights", dependencies=[require("admin")])
def get_model(model: str, context: Context) -> FileResponse:
    file = _file_of(context, model)
    return file_response(file, f"{model}{file.suffix}")


@router.get(
    "/info/{model}",
    summary="Checksum and modification time of a model's weights",
    dependencies=[require("admin"), takes_turn("long")],
)
def get_model_info(model: str, context: Context) -> dict[str, Any]:
    file = _file_of(context, model)
    info = {"checksum": file_checksum(str(file)), "modified_time": int(os.stat(file).st_mtime)}
    trainer = context.tasks.trainers.get(model)
    return info | ({"train_stats": trainer.stats()} if trainer else {})


@router.put("/{model}", summary="Disabled", dependencies=[require("admin")], responses={403: {"description": _PROMOTE}})
def put_model(model: str) -> None:
    raise Disabled(_PROMOTE)


@router.delete(
    "/{model}", summary="Disabled", dependencies=[require("admin")], responses={403: {"description": _PROMOTE}}
)
def delete_model(model: str) -> None:
    raise Disabled(_PROMOTE)


def _file_of(context: ServerContext, name: str) -> Path:
    model = context.tasks.models.get(name)
    get_path = getattr(model, "get_path", None)
    path = get_path() if get_path else None
    if not path or not os.path.exists(path):
        raise NotFound(f"model {name!r} has no weights file")
    return Path(path)
