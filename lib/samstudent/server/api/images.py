"""``/datastore`` and ``/datastore/image``: lists of the study, images and their metadata."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.utils.others.generic import file_checksum
from starlette.background import BackgroundTask

from samstudent.errors import NotFound, UserError
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.params import json_object
from samstudent.server.api.uploads import Uploads, file_response, json_response
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import user_name
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, ServerContext, require_known
from samstudent.server.datastore.identifiers import check_image_id
from samstudent.server.review_metadata import for_extension
from samstudent.server.start_labels import list_starts
from samstudent.util.places import require_readable

router = APIRouter(
    prefix="/datastore",
    tags=["Datastore"],
    route_class=BoundedRoute,
    responses={404: {"description": "no such image or label"}},
)
READ = [require("user")]
CHANGE = [require("admin"), takes_turn("write")]


class Output(str, Enum):
    """Content of ``GET /datastore/``: pairs of image and final label, counts, or the complete list."""

    train = "train"
    stats = "stats"
    all = "all"


@router.get(
    "/", summary="Images and labels of the study: counts, training pairs, or the complete list", dependencies=READ
)
def get_datastore(context: Context, output: Output | None = None) -> Response:
    store = context.datastore
    if output == Output.all:
        content = store.json()
        list_starts(context, content["objects"])
        for_extension(content["objects"], context.study.flags.all())
        return json_response(content)
    return json_response(store.datalist() if output == Output.train else store.status())


@router.put("/", include_in_schema=False, dependencies=CHANGE)
@router.put("/image", summary="Add an image to the study", dependencies=CHANGE)
def put_image(
    context: Context,
    line: Annotated[AuditLine, audited("image added")],
    uploads: Uploads,
    file: Annotated[UploadFile, File()],
    image: Annotated[str | None, Query(description="id of the image; default: the file name")] = None,
    params: Annotated[str, Form(description="JSON object with metadata of the image")] = "{}",
) -> dict[str, Any]:
    info = json_object(params, "params")
    # For the host the extension begins at the first dot: "1.2.840.55.png" would become image "1".
    image = check_image_id(image or uploads.split(Path(file.filename or "").name)[0])
    info["user"] = user_name(info.get("client_id"))
    line.describe(info["user"], case=image)
    with uploads.received(file) as path:
        return {"image": context.datastore.add_image(image, str(path), info)}


@router.delete("/", include_in_schema=False, dependencies=CHANGE)
@router.delete("/image", summary="Remove an image and its labels", dependencies=CHANGE)
def delete_image(context: Context, line: Annotated[AuditLine, audited("image removed")], id: str) -> dict[str, Any]:
    image = context.image_id(id)
    line.describe(user_name(), case=image)
    context.datastore.remove_image(image)
    return {}


@router.head("/image", summary="Check whether an image exists", dependencies=READ)
def head_image(
    context: Context,
    image: str,
    check_sum: Annotated[str | None, Query(description="algorithm:digest, by SHA256, SHA512 or MD5")] = None,
) -> dict[str, Any]:
    file = _file_of(context, context.image_id(image))
    if check_sum:
        algorithm, _, digest = check_sum.rpartition(":")
        algorithm = require_known(
            algorithm or "SHA256", {name: name for name in ("SHA256", "SHA512", "MD5")}, "checksum"
        )
        if file_checksum(str(file), algorithm).rpartition(":")[2] != digest.lower():
            raise NotFound(f"image {image!r} has another checksum")
    return {}


@router.get("/image", summary="Download an image", dependencies=READ, response_class=FileResponse)
def get_image(context: Context, image: str) -> FileResponse:
    image = context.image_id(image)
    file = _file_of(context, image)
    # The name of a file in a cache, or of a DICOM file in a subfolder, is not the image's.
    return file_response(file, str(context.datastore.get_image_info(image).get("name", file.name)))


@router.get("/image/info", summary="Metadata of an image", dependencies=READ)
def get_image_info(context: Context, image: str) -> dict[str, Any]:
    info: dict[str, Any] = context.datastore.get_image_info(context.image_id(image))
    return info


@router.put("/image/info", summary="Add metadata of an image", dependencies=CHANGE)
def put_image_info(context: Context, image: str, info: Annotated[str, Form(description="JSON object")] = "{}") -> None:
    values = json_object(info, "info")
    context.datastore.update_image_info(context.image_id(image), {**values, "user": user_name(values.get("user"))})


@router.get(
    "/dataset",
    summary="Download images and final labels as a zip file",
    dependencies=[require("annotator"), takes_turn("long")],
    response_class=FileResponse,
)
def get_dataset(
    context: Context, limit_cases: Annotated[int | None, Query(description="largest number of cases")] = None
) -> FileResponse:
    if limit_cases is not None and limit_cases < 1:
        raise UserError(f"limit_cases must be at least 1, not {limit_cases}")
    archive = Path(context.datastore.get_dataset_archive(limit_cases))
    response = file_response(archive, "dataset.zip")
    response.background = BackgroundTask(archive.unlink, missing_ok=True)
    return response


def _file_of(context: ServerContext, image: str) -> Path:
    """File of an image for clients: NIfTI for a volume of a PACS, an upright copy for a photograph."""
    store = context.datastore
    viewer_file = getattr(store, "viewer_file", None)
    file = Path(viewer_file(image) if viewer_file else store.get_image_uri(image))
    require_readable(file)
    return file
