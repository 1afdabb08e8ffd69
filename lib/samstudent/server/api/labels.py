"""``/datastore/label``: human labels and their metadata.

Each parameter of an endpoint is a field of the request, as the host's clients send it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse

from samstudent.errors import NotFound
from samstudent.imaging.label_tags import FINAL, ORIGINAL
from samstudent.imaging.value_lookup import structures_in
from samstudent.imaging.value_names import KEY
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.params import check_upload_tag, json_object
from samstudent.server.api.reservations import note_work
from samstudent.server.api.uploads import Uploads, file_response
from samstudent.server.auth import audit
from samstudent.server.auth.audit import AuditLine, audited
from samstudent.server.auth.current_user import caller, stamped, user_name
from samstudent.server.auth.roles import require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, ServerContext
from samstudent.server.datastore.identifiers import ACCEPTED_FROM, ANNOTATION, check_name
from samstudent.server.pacs.datastore import ONLY_FROM_PACS
from samstudent.server.review_metadata import APPROVED_VERSION, ON_PAGE, LabelReview, sent_review
from samstudent.server.review_metadata import KEY as REVIEW
from samstudent.server.start_labels import has_start, start_info, write_start
from samstudent.util.places import require_readable

router = APIRouter(
    prefix="/datastore",
    tags=["Datastore"],
    route_class=BoundedRoute,
    responses={404: {"description": "no such image or label"}},
)
READ = [require("user")]
SAVE = [require("annotator"), takes_turn("write")]
#: Keys of author and origin, which are set when a label is saved and cannot be changed later.
_ORIGIN = frozenset({ACCEPTED_FROM, ANNOTATION, APPROVED_VERSION, ON_PAGE})
_FIXED = _ORIGIN | {"user", "client_id", *ONLY_FROM_PACS}


@router.put("/label", summary="Save a label", dependencies=SAVE)
def put_label(
    context: Context,
    line: Annotated[AuditLine, audited("label saved")],
    uploads: Uploads,
    image: str,
    label: Annotated[UploadFile, File()],
    tag: Annotated[str, Query(description="final: finished label of a human")] = FINAL,
    params: Annotated[
        str, Form(description="JSON object with metadata of the label; label_info: names of its values")
    ] = "{}",
) -> dict[str, Any]:
    tag, info = check_upload_tag(tag or FINAL), _without(stamped(json_object(params, "params")), _ORIGIN)
    review = sent_review(tag, info)
    image = context.image_id(image)
    line.describe(user_name(info.get("client_id")), case=image, tag=tag)
    note_work(context, image, info)
    info = _without(info, {REVIEW})
    if tag == FINAL and review is None:
        info |= context.label_reviews.kept(image)
    with uploads.received(label) as path:
        label_id = context.datastore.save_label(image, str(path), tag, info)
    _decide(context, image, tag, review)
    saved = context.wait_for_pacs(image) | {"image": image, "label": label_id}
    return saved | _recognised(context, image, tag)


@router.delete("/label", summary="Remove a label", dependencies=[require("admin"), takes_turn("write")])
def delete_label(
    context: Context, line: Annotated[AuditLine, audited("label removed")], id: str, tag: str
) -> dict[str, Any]:
    image = _labelled(context, id, tag)
    line.describe(user_name(), case=image, tag=tag)
    context.datastore.remove_label(image, tag)
    return {}


@router.head("/label", summary="Check whether a label exists", dependencies=READ)
def head_label(context: Context, image: str, tag: str) -> dict[str, Any]:
    if _is_start(context, image, tag):
        return {}
    _file_of(context, _labelled(context, image, tag), tag)
    return {}


@router.get(
    "/label",
    summary="Download a label; original: a stored result of a model, else the pseudo label to start from",
    dependencies=READ,
    response_class=FileResponse,
)
def get_label(context: Context, uploads: Uploads, label: str, tag: str) -> FileResponse:
    if _is_start(context, label, tag):
        return file_response(write_start(context, context.image_id(label), uploads.folder))
    image = _labelled(context, label, tag)
    viewer_label = getattr(context.datastore, "viewer_label", None)
    if viewer_label and not caller().is_browser and (moved := viewer_label(image, tag)):
        return file_response(moved, f"{image}{moved.suffix}")
    return file_response(_file_of(context, image, tag))


@router.get("/label/info", summary="Metadata of a label", dependencies=READ)
def get_label_info(context: Context, label: str, tag: str) -> dict[str, Any]:
    if _is_start(context, label, tag):
        return start_info(context, context.image_id(label))
    info: dict[str, Any] = context.datastore.get_label_info(_labelled(context, label, tag), tag)
    return info


@router.put("/label/info", summary="Add metadata of a label", dependencies=SAVE)
def put_label_info(
    context: Context, label: str, tag: str, info: Annotated[str, Form(description="JSON object")] = "{}"
) -> dict[str, Any] | None:
    return _add_info(context, label, tag, info)


@router.put("/updatelabelinfo", include_in_schema=False, dependencies=SAVE)
def put_update_label_info(
    context: Context, label: str, tag: str, params: Annotated[str, Form()] = "{}"
) -> dict[str, Any] | None:
    return _add_info(context, label, tag, params)


def _add_info(context: ServerContext, label: str, tag: str, text: str) -> dict[str, Any] | None:
    """Add metadata without author and origin."""
    check_upload_tag(tag)
    info = _without(json_object(text, "info"), _FIXED)
    review, info = sent_review(tag, info), _without(info, {REVIEW})
    renames = "label_info" in info  # names of the label's values
    if renames or review:
        audit.require()
    image = _labelled(context, label, tag)
    if info:
        context.datastore.update_label_info(image, tag, info)
    _decide(context, image, tag, review)
    if not renames:
        return None
    audit.record("label changed", user_name(), case=image, tag=tag)
    return _recognised(context, image, tag)


def _decide(context: ServerContext, image: str, tag: str, review: LabelReview | None) -> None:
    """Carry out the review of a label by 3D Slicer's Reviewer extension, with a line in the audit log."""
    if review is None:
        return
    who = user_name(review.approved_by)
    action = context.label_reviews.decide(image, tag, review, who)
    if action is not None:
        audit.record(action, who, case=image, tag=tag)
    if action == "approve":
        context.wait_for_pacs(image)


def _is_start(context: ServerContext, image: str, tag: str) -> bool:
    """Whether a request is for the pseudo label to start from. Raises NotFound for an unknown image."""
    return tag == ORIGINAL and has_start(context, context.image_id(image))


def _labelled(context: ServerContext, image: str, tag: str) -> str:
    """Id of an image with a label of this tag; raises NotFound."""
    check_name(tag, "tag")
    image = context.image_id(image)
    if not context.datastore.get_label_by_image_id(image, tag):
        raise NotFound(f"image {image!r} has no label {tag!r}")
    return image


def _file_of(context: ServerContext, image: str, tag: str) -> Path:
    file = Path(context.datastore.get_label_uri(image, tag))
    require_readable(file)
    return file


def _recognised(context: ServerContext, image: str, tag: str) -> dict[str, Any]:
    """Structures recognised in a saved label, and names in it that are no structures of the task."""
    info = context.datastore.get_label_info(image, tag)
    if KEY not in info:
        return {}
    structures, left_out = structures_in(Path(context.datastore.get_label_uri(image, tag)), info, context.task)
    return {"structures": structures, "left_out": left_out}


def _without(info: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in keys}
