"""``/infer``: inference of a model on an image of the study, an upload, or the upload of a session.

Each parameter of the endpoint is a field of the request, as the host's clients send it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, Response
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from samstudent.errors import UserError, named
from samstudent.imaging.file_names import printable
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.dicom_result import require_dicom, write_dicom_seg
from samstudent.server.api.params import check_params, json_object
from samstudent.server.api.reservations import note_work
from samstudent.server.api.upload_session_routes import own_session
from samstudent.server.api.uploads import Uploads, file_response, json_response, media_type
from samstudent.server.auth import audit
from samstudent.server.auth.current_user import caller, user_name
from samstudent.server.auth.roles import RoleRequired, has_role, require, role_name
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, ServerContext
from samstudent.server.datastore.identifiers import check_image_id
from samstudent.server.pacs.datastore import PacsDatastore
from samstudent.server.tasks.sam_interactive import SamInteractiveTask

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/infer", tags=["Infer"], route_class=BoundedRoute)


class Output(str, Enum):
    """Form of the response."""

    image = "image"
    json = "json"
    all = "all"
    dicom_seg = "dicom_seg"


#: Responses in the OpenAPI description.
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Masks, their statistics, or both as a form with the parts params and image",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"params": {"type": "string"}, "image": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    404: {"description": "no such model, image or session"},
    503: {"description": "too many inferences are waiting, or no response from the PACS"},
}


@router.post(
    "/{model}",
    summary="Run a model on an image",
    responses=_RESPONSES,
    response_class=Response,
    dependencies=[require("user"), takes_turn("inference")],
)
def post_inference(
    context: Context,
    uploads: Uploads,
    model: str,
    image: Annotated[str, Query(description="id of an image of the study")] = "",
    session_id: Annotated[str, Query(description="alternative: id of an upload, from PUT /session/")] = "",
    output: Annotated[Output | None, Query(description="form of the response; default: all")] = None,
    params: Annotated[str, Form(description="JSON object: options of the model, clicks")] = "{}",
    file: Annotated[UploadFile | None, File(description="alternative: an image")] = None,
    label: Annotated[UploadFile | None, File(description="initial mask for the model")] = None,
) -> Response:
    task = context.model(model)
    request = json_object(params, "params")
    check_params(request, context.devices, model)
    keep = bool(request.get("save_label"))
    if keep and not has_role("annotator"):
        raise RoleRequired(f"params: 'save_label': role \"{role_name('annotator')}\" is required to save labels")
    if not (image or session_id or file):
        raise UserError("no input: send image (an id), session_id, or a file")
    if image:
        # 3D Slicer sends the name of the session's volume, which need not be in the study.
        image = check_image_id(image) if session_id else context.image_id(image)
    dicom = require_dicom(context.datastore, image) if output == Output.dicom_seg else None
    if dicom:
        request["result_extension"] = ".seg.nrrd"

    with contextlib.ExitStack() as opened:
        if label:
            request.setdefault("label", str(opened.enter_context(uploads.received(label))))
        if session_id:
            path = own_session(context, session_id)
            opened.enter_context(named(path, f"the session's {printable(path.name)}"))
        elif file:
            path = opened.enter_context(uploads.received(file))
        else:
            path = _image_path(context, image)
        keep = keep and not (session_id or file)  # labels belong to images of the study
        if keep:
            audit.require()
        logger.info("inference by %s on %s", model, "an upload" if session_id or file else image)
        request |= {"model": model, "image": str(path), "description": task.description, "save_label": keep}
        output_file, result = context.inference.run(lambda: task(request))
        masks = Path(output_file) if output_file and os.path.exists(output_file) else None
        if masks and keep:
            context.datastore.save_label(image, str(masks), "original", {"model": model, "params": result})
            audit.record("label saved", user_name(request.get("client_id")), case=image, tag="original", model=model)

    # Only clicks count as work on a case: viewers run other models by themselves when they open it.
    if image and isinstance(task, SamInteractiveTask):
        note_work(context, image, request)
    if image and isinstance(context.datastore, PacsDatastore):
        context.datastore.note_assistance(image, model)
    if dicom and masks:
        seg = uploads.folder / "segmentation.dcm"
        write_dicom_seg(context, seg, model, dicom, masks)
        masks.unlink()
        return FileResponse(seg, media_type="application/dicom", filename=seg.name)
    return _response(masks, result, output)


def _image_path(context: ServerContext, image: str) -> Path:
    """File of an image, on the grid that the client has: clients that load a DICOM volume from this server have
    perpendicular axes, browsers (OHIF, our page) have the grid of the series."""
    store = context.datastore
    if not caller().is_browser and (file := store.viewer_grid_file(image)):
        return file
    return Path(store.get_image_uri(image))


def _response(masks: Path | None, result: dict[str, Any], output: Output | None) -> Response:
    """Response in the requested form; the file of the masks is removed afterwards."""
    if masks is None or output == Output.json:
        if masks:
            masks.unlink()
        return json_response(result)
    if output == Output.image:
        response: Response = file_response(masks)
    else:
        with masks.open("rb") as content:
            fields = {
                "params": (None, json.dumps(result), "application/json"),
                "image": (masks.name, content, media_type(masks)),
            }
            form = MultipartEncoder(fields=fields)
            response = Response(form.to_string(), media_type=form.content_type)
    response.background = BackgroundTask(masks.unlink, missing_ok=True)
    return response
