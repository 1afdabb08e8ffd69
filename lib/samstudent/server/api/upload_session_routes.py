"""``/session``: uploads for one or more inferences, accessible to their user only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, UploadFile
from fastapi.responses import Response

from samstudent.errors import NotFound, UserError
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.api.uploads import Uploads, file_response, json_response
from samstudent.server.auth.current_user import caller, user_name
from samstudent.server.auth.roles import has_role, require
from samstudent.server.concurrency import takes_turn
from samstudent.server.context import Context, ServerContext
from samstudent.server.datastore.identifiers import check_image_id
from samstudent.server.upload_sessions import SafeSessions

router = APIRouter(
    prefix="/session", tags=["Session"], route_class=BoundedRoute, responses={404: {"description": "no such session"}}
)


class SessionsOff(UserError):
    """Uploads are disabled, MONAI_LABEL_SESSIONS=false (HTTP 406)."""

    status = 406


@router.put("/", summary="Upload an image for inferences", dependencies=[require("annotator"), takes_turn("long")])
def put_session(
    context: Context,
    uploads: Uploads,
    files: Annotated[list[UploadFile], File()],
    uncompress: Annotated[bool, Query(description="the file is a zip or tar archive")] = False,
    expiry: Annotated[int, Query(description="seconds without use until removal; 0: the maximum")] = 0,
) -> dict[str, Any]:
    sessions = _sessions(context)
    sessions.check_expiry(expiry)
    names = [check_image_id(file.filename or "") for file in files]
    if len(set(names)) < len(names) or "meta.info" in names:
        raise UserError("the files of a session need different names, other than meta.info")
    folder = uploads.folder / "session"
    folder.mkdir()
    for file, name in zip(files, names, strict=True):
        with (folder / name).open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
    received = folder if len(files) > 1 else folder / names[0]
    session_id, info = sessions.add_session(str(received), expiry, uncompress)
    sessions.set_user(session_id, user_name())
    return {"session_id": session_id, "session_info": info.to_json()}


@router.get("/{session_id}", summary="Metadata of an upload, or its file", dependencies=[require("user")])
def get_session(
    context: Context,
    session_id: str,
    update_ts: Annotated[bool, Query(description="count the request as use")] = False,
    image: Annotated[bool, Query(description="return the file")] = False,
) -> Response:
    path = own_session(context, session_id, use=update_ts)
    return file_response(path) if image else json_response(_info(context, session_id))


@router.delete("/{session_id}", summary="Remove an upload", dependencies=[require("user")])
def delete_session(context: Context, session_id: str) -> dict[str, Any]:
    own_session(context, session_id)
    info = _info(context, session_id)
    _sessions(context).remove_session(session_id)
    return info


def own_session(context: ServerContext, session_id: str, use: bool = True) -> Path:
    """File or folder of an upload of the current user.

    Args:
        context: parts of the server.
        session_id: id from PUT /session/.
        use: whether this access postpones the expiry.

    Raises:
        NotFound: unknown or expired upload, or upload of another user.
    """
    sessions, user = _sessions(context), caller().user
    info = sessions.get_session(session_id, update_ts=False)
    if info is None or (user and not has_role("admin") and user.username != info.meta.get("user")):
        raise NotFound(f"session {session_id!r}: no such session, or it has expired")
    if use:
        sessions.get_session(session_id)
    return Path(info.image)


def _info(context: ServerContext, session_id: str) -> dict[str, Any]:
    info = _sessions(context).get_session(session_id, update_ts=False)
    if info is None:
        raise NotFound(f"session {session_id!r}: no such session, or it has expired")
    values: dict[str, Any] = info.to_json()
    return values


def _sessions(context: ServerContext) -> SafeSessions:
    if context.sessions is None:
        raise SessionsOff("uploads are disabled on this server (MONAI_LABEL_SESSIONS)")
    return context.sessions
