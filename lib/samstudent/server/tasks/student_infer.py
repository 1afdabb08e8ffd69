"""The host's infer tasks ``student`` and ``student+sam``."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.utils.others.generic import strtobool

from samstudent.errors import Conflict, UserError
from samstudent.imaging.case import CaseImage, for_sam, read_image
from samstudent.imaging.label_writing import write_masks
from samstudent.inference.round_refiner import RoundRefiner, formula_quality
from samstudent.rounds.study import Study
from samstudent.sam.results import Refinement
from samstudent.sam.transform import SamRefined
from samstudent.student.predict import Student, binarize
from samstudent.util.device import pick_device

logger = logging.getLogger(__name__)

#: Formats in which masks can be answered; also the input's own, if it is one of them.
RESULT_EXTENSIONS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".png", ".tif", ".tiff")


class StudentInferTask(BasicInferTask):  # type: ignore[misc]
    """The served student's own masks. Offered only while the ledger has a champion that fits the task."""

    def __init__(self, study: Study, description: str = "The student: all structures at once") -> None:
        super().__init__(
            path=None,
            network=None,
            type=InferType.SEGMENTATION,
            labels=dict(study.task.structures),
            dimension=study.task.dimension,
            description=description,
        )
        self.study = study
        self.task = study.task
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[Path, Student]] = {}
        #: Why there is no valid student, as of the last look.
        self.fault = ""

    def is_valid(self) -> bool:
        """Whether there are weights to serve: the host would serve random ones."""
        try:
            if self.study.ledger.champion_path() is None:
                return False
            self.student()
        except UserError as error:
            if str(error) != self.fault:  # clients ask every few seconds; the log needs it once
                logger.error("no student is served: %s", error)
                self.fault = str(error)
            return False
        return True

    def get_path(self, validate: bool = True) -> str | None:
        """Model file of the champion, the response of the host's GET /model."""
        try:
            path = self.study.ledger.champion_path()
        except UserError:
            return None
        return str(path) if path else None

    def student(self, device: str | None = None) -> Student:
        """The champion on a device. Raises as ``served``."""
        return self.served(device)[1]

    def served(self, device: str | None = None) -> tuple[str, Student]:
        """The served round's id, and its student on a device, loaded again when another round is served.

        Raises:
            Conflict: no round is served yet.
            UserError: its file is damaged, or does not fit the task as it is now.
        """
        target = str(pick_device(device))
        with self._lock:
            path = self.study.ledger.champion_path()
            if path is None:
                raise Conflict("no student yet: label a case or more and train first")
            loaded = self._loaded.get(target)
            if loaded is None or loaded[0] != path:
                loaded = (path, Student.load(path, self.task, target))
                self._loaded[target] = loaded
            return path.parent.name, loaded[1]

    def clear(self) -> None:
        self._loaded.clear()

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str, dict[str, Any]]:
        """Answer a request of the host.

        Args:
            request: ``image`` is a path; ``result_extension`` one of ``RESULT_EXTENSIONS`` (default: the image's own if
                it can hold masks, else .nrrd, for a JPEG .png); ``result_compress`` "false" for a raw NRRD; ``device``.

        Returns:
            Path of the label file and its facts: ``label_names`` (all structures, name to value, in the order of the
            values, because Slicer assigns value i to the i-th of them), ``structures``, ``student``, and
            ``sam`` if SAM was run: its ``digest``, that of the ``adapted`` decoder, and the round whose ``recipes``
            were taken, or "task".
        """
        if not isinstance(request.get("image"), str) or not request["image"]:
            raise UserError("image: expected the id of a case, or the path of an image file")
        result_extension(request)
        # Without the writer the host would return arrays, which cannot be encoded as JSON.
        file, facts = super().__call__(request | {"skip_writer": False}, callbacks)
        facts["label_names"] = dict(self.task.structures)
        return file, facts

    # ---- the steps, each called by the host ----

    def pre_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        return [self._read]

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cpu") -> dict[str, Any]:
        data["round"], student = self.served(device)
        data["pred"] = student.predict(data["case"])
        data["student"] = student.version
        return data

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        return [self._own_masks]

    def writer(
        self, data: dict[str, Any], extension: str | None = None, dtype: Any = None
    ) -> tuple[str, dict[str, Any]]:
        case: CaseImage = data["case"]
        masks = np.asarray(data["pred"]).astype(bool)
        compress = bool(strtobool(str(data.get("result_compress", True))))
        with tempfile.NamedTemporaryFile(suffix=extension or result_extension(data), delete=False) as file:
            path = Path(file.name)
        write_masks(path, masks, self.task, case.grid, compress=compress)
        facts = self._facts(masks, data)
        return str(path), facts | {"student": data["student"]}

    def _read(self, data: dict[str, Any]) -> dict[str, Any]:
        data["case"] = read_image(data["image_path"], self.task.dimension)
        return data

    def _own_masks(self, data: dict[str, Any]) -> dict[str, Any]:
        data["pred"] = binarize(data["pred"], self.task)
        return data

    def _facts(self, masks: np.ndarray[Any, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        present = {name: bool(mask.any()) for name, mask in zip(self.task.names, masks, strict=True)}
        return {"structures": {name: {"present": is_present} for name, is_present in present.items()}}


class StudentSamInferTask(StudentInferTask):
    """The student's masks refined by SAM, with quality estimates.

    Each structure is refined with the recipe that the served round selected (``Study.policy_of``), otherwise with that
    of the task. SAM is not run on volumes if the policy of the round does not use it (``LabelingPolicy.uses_sam``);
    the estimates are then None.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(study, "The student, its masks redrawn by Segment Anything")

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        # Not of the round that is served now: that may be another than the one whose student has just predicted.
        found = RoundRefiner.of(self.study, data["round"], self.study.embeddings)
        data["sam"] = dict(found.facts)
        return [self._image_for_sam, SamRefined("pred", found.refiner, image_key="image_for_sam")]

    def _image_for_sam(self, data: dict[str, Any]) -> dict[str, Any]:
        data["image_for_sam"] = for_sam(data["case"], self.task.image)
        data["spacing"] = data["case"].grid.spacing
        return data

    def _facts(self, masks: np.ndarray[Any, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        refinement: Refinement = data["pred_refinement"]
        structures = {}
        for result, mask in zip(refinement.structures, masks, strict=True):
            quality = formula_quality(result)
            structures[result.name] = {**result.as_json(), "present": bool(mask.any()), "quality": quality}
        return {"structures": structures, "sam": data["sam"]}


def result_extension(request: Mapping[str, Any]) -> str:
    """File format of the result.

    Raises:
        UserError: one that cannot hold masks.
    """
    requested = request.get("result_extension")
    if requested:
        if requested not in RESULT_EXTENSIONS:
            raise UserError(f"result_extension {requested!r}: use one of {', '.join(RESULT_EXTENSIONS)}")
        return str(requested)
    name = str(request["image"]).lower()
    if name.endswith((".jpg", ".jpeg")):
        return ".png"
    return next((ext for ext in RESULT_EXTENSIONS if ext != ".seg.nrrd" and name.endswith(ext)), ".nrrd")
