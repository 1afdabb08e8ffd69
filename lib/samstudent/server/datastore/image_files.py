"""Image files of a study: added, removed, checked, and prepared for viewers."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel

from samstudent.errors import Conflict, UserError
from samstudent.imaging.dicom_heads import dicom_head
from samstudent.imaging.file_names import case_id, split_name
from samstudent.imaging.image_paths import ImagePath, channels_in, shown_path
from samstudent.imaging.listed_names import name_of
from samstudent.server.datastore.identifiers import check_image_id
from samstudent.server.datastore.label_rules import ImageRules
from samstudent.server.datastore.study_list import StudyList
from samstudent.server.datastore.upright import UprightCopies
from samstudent.server.datastore.volume_copies import VolumeCopies
from samstudent.util.files import atomic_path, require_own, sha256_file


class ImageFiles:
    """Image files of one study.

    The file of a case is found by the file name in its info: an id is not always the stem of the file name. Files
    outside of the study, behind a link or a mount, are only read.

    Args:
        study: study folder.
        listed: list of the study.
        rules: file extensions and check of images.
    """

    def __init__(self, study: Path, listed: StudyList, rules: ImageRules) -> None:
        self.study, self.listed, self.rules = study, listed, rules
        self._upright = UprightCopies(study / ".samstudent" / "upright")
        self._volumes = VolumeCopies(study / ".samstudent" / "viewer", rules.shown)

    def path(self, image_id: str) -> Path | None:
        """Path of an image in the study, which may be a link; None: it is not listed."""
        model = self.listed.model
        entry = model.objects.get(case_id(image_id))
        if entry is None:
            return None
        path = Path(model.image_path(), name_of(image_id, entry.image.ext, entry.image.info)).absolute()
        return channels_in(path, len(self.rules.channels)) if self.rules.channels and entry.image.ext else path

    def _shown(self, image_id: str) -> Path:
        """Image that clients load: of several channels one; in volumes on the grid of the first, as points are."""
        path = self.path(image_id) or Path()
        return path if self.rules.dimension == 3 and self.rules.shown else shown_path(path, self.rules.shown)

    def for_viewer(self, image_id: str) -> Path:
        """File for clients: the image's own, an upright copy if it has an orientation tag, or a copy in one file of a
        DICOM volume or frame.

        Raises:
            Unavailable: the copy cannot be written. UserError: the DICOM files cannot be read.
        """
        case, path = case_id(image_id), self._shown(image_id)
        return self._volumes.of(case, path) if self._is_part(path) else self._upright.of(case, path)

    def viewer_info(self, image_id: str) -> dict[str, str]:
        """Path and name of the file for clients. A copy of a DICOM volume or frame need not exist yet."""
        case, path = case_id(image_id), self._shown(image_id)
        file = self._volumes.place(case, path) if self._is_part(path) else self._upright.of(case, path)
        is_nested = file == path and path.parent != Path(self.listed.model.image_path()).absolute()
        # DICOM in a subfolder often has no ending.
        return {"path": str(file), "name": f"{case}.dcm" if is_nested else file.name}

    def tilted_copy(self, image_id: str) -> Path | None:
        """Copy for clients of a DICOM volume with a tilted gantry, whose grid differs from the case's; else None."""
        return self._volumes.tilted(case_id(image_id), self._shown(image_id))

    def _is_part(self, path: Path) -> bool:
        """Whether an image is not one file. The study folder itself stands for no image."""
        return path != Path() and self._volumes.is_needed(path)

    # ---- changes ----

    def add(self, image_id: str, file: Path, info: dict[str, Any]) -> str:
        """Copy an image into the study.

        Args:
            image_id: id of the image; "": the file name without its extension.
            file: the image.
            info: metadata from the client.

        Returns:
            The id as listed.

        Raises:
            UserError: invalid id or file extension; a DICOM file that is not one case of the task.
            Conflict: the id belongs to another image, whose labels do not fit this one.
        """
        case, ext = self._split(file.name)
        case = check_image_id(image_id or case)
        if not ext or self._split(case + ext) != (case, ext):
            allowed = " ".join(self.rules.extensions)
            raise UserError(f"image {case!r} from file {file.name!r}: the file must be one of {allowed}")
        self._require_one_case(case, file)
        with self.listed.transaction() as model:
            if (present := self.path(case)) is not None:
                if (place := ImagePath.of(present).place).is_file() and sha256_file(place) == sha256_file(file):
                    return case
                raise Conflict(f"another image {case!r} is in the study already; remove it first or choose another id")
            destination = Path(model.image_path()) / (case + ext)
            require_own(destination, self.study)
            with atomic_path(destination) as temporary:
                shutil.copyfile(file, temporary)
            info = {**info, "ts": int(time.time()), "name": destination.name}
            model.objects[case] = ImageLabelModel(image=DataModel(info=info, ext=ext))
        return case

    def _require_one_case(self, case: str, file: Path) -> None:
        """Refuse a DICOM file that would not be listed under its id: in 3D a slice, in 2D a clip."""
        head = dicom_head(file)
        if head is None or head.fault:
            return
        if self.rules.dimension == 3 and head.frames == 1:
            raise UserError(
                f"image {case!r}: one DICOM slice, but the task's dimension is 3; copy the series to a subfolder of the"
                " study, or send the volume as NIfTI"
            )
        if self.rules.dimension == 2 and head.frames > 1:
            raise UserError(
                f"image {case!r}: a clip of {head.frames} frames; copy it to the study folder; its frames are cases"
            )

    def require_removable(self, image_id: str) -> None:
        """Raises Conflict if the image is a part of a DICOM file or folder, or outside of the study."""
        if (file := self.path(image_id)) is None:
            return
        image = ImagePath.of(file)
        if image.channels or image.frame is not None or image.place.is_dir():
            kind = "has several files" if image.channels else "is a DICOM series or frame"
            raise Conflict(f"case {image_id!r} {kind}, in {image.place}; remove its files there")
        require_own(image.place, self.study)

    def unlink(self, image_id: str) -> None:
        """Remove the file of an image and its upright copy; the list is not changed."""
        if (file := self.path(image_id)) is not None:
            ImagePath.of(file).place.unlink(missing_ok=True)
        self._upright.forget(case_id(image_id))

    # ---- check ----

    def unreadable(self) -> dict[str, str]:
        """Reasons by case id of the images that are known to be unusable."""
        return {} if self.rules.check is None else self.rules.check.problems(self.path)

    def problem(self, image_id: str) -> str | None:
        """Reason that an image is unusable, or None. Reads the image if it changed since the last check."""
        file, check = self.path(image_id), self.rules.check
        return None if check is None or file is None else check.problem(case_id(image_id), file)

    def note_readable(self, image_id: str) -> None:
        """Record that an image was read without an error, which makes a check unnecessary."""
        check = self.rules.check
        if check is not None and (file := self.path(image_id)) is not None:
            check.record(case_id(image_id), file)

    def _split(self, file: str) -> tuple[str, str]:
        return split_name(os.path.basename(file), self.rules.extensions)
