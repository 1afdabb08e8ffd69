"""Uploads of one request as files, and its answers as files: all of them gone when it is answered."""

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
    """Folder of one request.

    Args:
        context: of the server; knows which extensions its study takes.
        folder: for the files.
    """

    def __init__(self, context: ServerContext, folder: Path) -> None:
        self._split = getattr(context.datastore, "_to_id", None)
        self.folder = folder

    def split(self, name: str) -> tuple[str, str]:
        """A file name as (stem, extension): the longest extension that the study knows, else the last one."""
        stem, extension = self._split(name) if self._split else (name, "")
        return (stem, extension) if extension else (PurePosixPath(name).stem, PurePosixPath(name).suffix)

    @contextmanager
    def received(self, upload: UploadFile) -> Iterator[Path]:
        """An upload as a file. Of its name only the extension becomes part of a path; errors say the client's name."""
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


#: Parameter of an endpoint; removed when the answer has been sent.
Uploads = Annotated[UploadFolder, Depends(_upload_folder)]


def file_response(path: Path, name: str | None = None) -> FileResponse:
    """A file as the answer, under its own or another name.

    Raises:
        NotFound: it is gone.
    """
    if not path.is_file():
        raise NotFound(f"{name or path.name}: this file is gone")
    return FileResponse(path, media_type=media_type(path), filename=name or path.name)


def media_type(path: str | Path) -> str:
    """MIME type of a file by its name."""
    return mimetypes.guess_type(str(path), strict=False)[0] or "application/octet-stream"


def json_response(content: Any) -> Response:
    """JSON made in the endpoint's thread: on the event loop, a list of 10,000 images would keep all others waiting."""
    return Response(to_json(content, inf_nan_mode="null", fallback=str), media_type="application/json")
