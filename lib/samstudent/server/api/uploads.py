"""Files of one request: uploads and results, removed at the end of the request; file and JSON responses."""

from __future__ import annotations

import mimetypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from fastapi import Depends, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic_core import to_json

from samstudent.errors import NotFound, named
from samstudent.imaging.file_names import printable
from samstudent.server.context import Context, ServerContext


class UploadFolder:
    """Temporary folder of one request.

    Args:
        context: parts of the server, with the file extensions of the study.
        folder: folder of the files.
    """

    def __init__(self, context: ServerContext, folder: Path) -> None:
        self._split = getattr(context.datastore, "_to_id", None)
        self.folder = folder

    def split(self, name: str) -> tuple[str, str]:
        """(stem, extension) of a file name: the longest extension known to the study, else the last one."""
        stem, extension = self._split(name) if self._split else (name, "")
        return (stem, extension) if extension else (PurePosixPath(name).stem, PurePosixPath(name).suffix)

    @contextmanager
    def received(self, upload: UploadFile) -> Iterator[Path]:
        """Path of an upload. It has the extension of the client's file name, which error messages contain."""
        name = os.path.basename(upload.filename or "")
        extension = self.split(name)[1] if name else ".nii.gz"
        if len(extension) > 12 or not extension.replace(".", "").isalnum():
            extension = ""
        handle, path = tempfile.mkstemp(suffix=extension, prefix="upload", dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(upload.file, file)
        with named(Path(path), printable(name) or "the uploaded file"):
            yield Path(path)


def _upload_folder(context: Context) -> Iterator[UploadFolder]:
    with tempfile.TemporaryDirectory(prefix="samstudent-request-") as folder:
        yield UploadFolder(context, Path(folder))


#: Parameter of an endpoint; removed when the response has been sent.
Uploads = Annotated[UploadFolder, Depends(_upload_folder)]


def file_response(path: Path, name: str | None = None) -> FileResponse:
    """Response with a file, under its own or another name.

    Raises:
        NotFound: the file does not exist.
    """
    if not path.is_file():
        raise NotFound(f"{name or path.name}: the file does not exist")
    return FileResponse(path, media_type=media_type(path), filename=name or path.name)


def media_type(path: str | Path) -> str:
    """MIME type by file name."""
    return mimetypes.guess_type(str(path), strict=False)[0] or "application/octet-stream"


def json_response(content: Any) -> Response:
    """JSON response, serialised in the endpoint's thread: on the event loop a long list would delay other requests."""
    return Response(to_json(content, inf_nan_mode="null", fallback=str), media_type="application/json")
