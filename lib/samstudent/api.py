"""Use of a study's models from Python: ``samstudent.open_study`` (docs/how-to/python.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import NotFound, UserError
from samstudent.imaging.case import CaseImage, read_image
from samstudent.imaging.grid import Grid
from samstudent.imaging.labels import read_masks
from samstudent.imaging.remarks import sentences
from samstudent.imaging.value_lookup import names_in_folder
from samstudent.inference.image_list import list_images
from samstudent.inference.prediction import Origin, Prediction, refined_structures
from samstudent.inference.round_model import RoundModel
from samstudent.inference.round_refiner import RoundRefiner
from samstudent.rounds.study import Study
from samstudent.sam.cache import EmbeddingCache
from samstudent.server.pacs.state_folder import pacs_folder
from samstudent.server.study_cases import CasesOfStudy
from samstudent.task import Task, load_task
from samstudent.util.address import is_pacs

#: An image: path of a file or of a DICOM folder, id of a case of the study, array, or an image that was read.
Image = str | os.PathLike[str] | NDArray[Any] | CaseImage
#: Masks: path of a label file, array (S, *spatial), or arrays (*spatial) by name of the structure.
Masks = str | os.PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]]


class OpenStudy:
    """A study with its models. Each model is loaded at its first use and kept; nothing is written into the study.

    Args:
        studies: path of the study folder, or URL of a DICOMweb server.
        task: name of a shipped task, path of a task file, or a task.
        device: "cpu", "cuda" or "cuda:<number>" for the students; None: the best of this machine.

    Raises:
        NotFound: no such folder or task. UserError: the task file is not valid.
    """

    def __init__(self, studies: str | os.PathLike[str], task: str | os.PathLike[str] | Task, device: str | None = None):
        place = os.fspath(studies)
        if not is_pacs(place) and not Path(place).is_dir():
            raise NotFound(f"{place}: no such study folder")
        app = pacs_folder(place) if is_pacs(place) else Path(place) / ".samstudent" / "app"
        self.task = task if isinstance(task, Task) else load_task(os.fspath(task))
        self.study = Study(place, str(app), self.task)
        self._cases = CasesOfStudy(self.study, place)
        self._device = device
        self._models: dict[str, RoundModel] = {}
        self._refiner: RoundRefiner | None = None
        self._cache = EmbeddingCache(self.study.embeddings.folder, stores=False)

    @property
    def structures(self) -> list[str]:
        """Names of the S structures, in the order of all masks."""
        return self.task.names

    @property
    def served_round(self) -> str | None:
        """Id of the served round; None: none is served."""
        champion = self.study.ledger.champion()
        return champion.id if champion else None

    @property
    def rounds(self) -> list[str]:
        """Ids of the rounds with a complete model, oldest first."""
        return [record.id for record in self.study.ledger.rounds() if record.model_digest is not None]

    def cases(self) -> list[str]:
        """Ids of the study's cases."""
        return self._cases.ids()

    def read(self, image: Image, spacing: Sequence[float] | None = None) -> CaseImage:
        """Read an image once, for several calls.

        Args:
            image: a path (also of a folder with one image), the id of a case of the study, or an array: (y, x) or
                (y, x, 3) of a 2D task, (z, y, x) or (z, y, x, 3) of a 3D task, with z, y, x towards the patient's head,
                front and right. With named channels: a file with all of them, a folder with those of one case, or an
                array whose last axis they are.
            spacing: of an array, mm along its spatial axes; None: 1 mm.

        Raises:
            NotFound: no such file and no such case. UserError: it cannot be read, or has another dimension.
        """
        if isinstance(image, CaseImage):
            return image
        if isinstance(image, np.ndarray):
            return _of_array(image, self.task, spacing)
        path = Path(image)
        if not os.path.lexists(path):
            case = os.fspath(image)
            if case not in self._cases.ids():
                raise NotFound(f"{case}: no such file or folder, and no case of the study has this id")
            path = self._cases.path(case)
        elif self.task.image.sequences or path.is_dir():
            path = _only_case(path, self.task)
        return read_image(path, self.task.dimension)

    def predict(
        self,
        image: Image,
        *,
        round_id: str | None = None,
        refine: bool = False,
        spacing: Sequence[float] | None = None,
    ) -> Prediction:
        """Masks of an image by the student of a round: those of the server's models ``student`` and ``student+sam``.

        Args:
            image: as of ``read``.
            round_id: e.g. "r0004"; None: the round that is served now.
            refine: SAM refines the student's masks; only then there are estimates of their quality.
            spacing: as of ``read``.

        Raises:
            Conflict: no round is served, or the named one is not complete. NotFound: no such round, file or case.
            UserError: the image cannot be read, or the model does not fit the task.
        """
        found = self.read(image, spacing)
        return self._model(round_id).predict(found, refine=refine)

    def refine(
        self,
        image: Image,
        masks: Masks,
        *,
        spacing: Sequence[float] | None = None,
    ) -> Prediction:
        """Masks of any origin, refined by the active SAM (adapted or plain) with the task's recipe.

        Their quality is that of the formula of ``predicted_iou`` and ``agreement``: recipes and quality model of a
        round are fitted to the masks of its students.

        Args:
            image: as of ``read``.
            masks: of the image's canonical grid: bool, or probabilities from 0 to 1, (S, *spatial) in the order of
                ``structures``; or arrays (*spatial) by name, where missing structures are absent; or the path of a
                label file of any format.
            spacing: as of ``read``.

        Raises:
            NotFound, UserError: the image or the masks cannot be read, or do not fit.
        """
        found = self.read(image, spacing)
        coarse = self._coarse(masks, found)
        if self._refiner is None:
            self._refiner = RoundRefiner.of(self.study, None, self._cache)
        refinement = self._refiner.refine(coarse, found)
        structures = refined_structures(refinement, self.task, {})
        origin = Origin(None, None, self._refiner.facts)
        return Prediction(refinement.masks, structures, found.grid, self.task, origin, found.path)

    def _model(self, round_id: str | None) -> RoundModel:
        """Model of a round, loaded once; with None that of the round that is served at this call."""
        id = round_id or self.served_round
        if id is None or id not in self._models:
            model = RoundModel.load(self.study, id, device=self._device, cache=self._cache)
            self._models[model.round_id] = model
            return model
        return self._models[id]

    def _coarse(self, masks: Masks, image: CaseImage) -> NDArray[np.float32]:
        """Coarse masks or probabilities, float32 (S, *spatial)."""
        expected = (len(self.structures), *image.grid.spatial_shape)
        if isinstance(masks, Mapping):
            if unknown := sorted(set(masks) - set(self.structures)):
                raise UserError(f"masks of {', '.join(unknown)}: the task has {', '.join(self.structures)}")
            stack = np.zeros(expected, dtype=np.float32)
            for name, mask in masks.items():
                if mask.shape != expected[1:]:
                    raise UserError(f"mask of {name!r} has the shape {mask.shape}; the image needs {expected[1:]}")
                stack[self.structures.index(name)] = mask
        elif isinstance(masks, np.ndarray):
            if masks.shape != expected:
                raise UserError(f"masks of shape {masks.shape}; the image needs {expected}")
            stack = masks.astype(np.float32)
        else:
            path = Path(masks)
            stack = read_masks(path, self.task, image.grid, names=names_in_folder(path)).astype(np.float32)
        if stack.size and not (stack.min() >= 0 and stack.max() <= 1):
            raise UserError(
                f"masks have values from {stack.min():g} to {stack.max():g}; expected 0 and 1, or probabilities"
            )
        return stack


def _only_case(path: Path, task: Task) -> Path:
    """The only case of a file or folder, with the named channels of the task."""
    found = list_images(path, task.dimension, task.image.sequences)
    if len(found.files) != 1:
        reasons = ", ".join([*found.files][:5]) if found.files else "; ".join(sentences(found.remarks))
        what = "cases with the task's channels" if task.image.sequences else "images"
        raise UserError(f"{path}: {len(found.files)} {what}; expected one{f' ({reasons})' if reasons else ''}")
    return next(iter(found.files.values()))


def _of_array(pixels: NDArray[Any], task: Task, spacing: Sequence[float] | None) -> CaseImage:
    """Image of an array in canonical orientation."""
    dimension, count = task.dimension, len(task.image.sequences)
    axes = "y, x" if dimension == 2 else "z, y, x"
    colour = pixels.ndim == dimension + 1 and pixels.shape[-1] == (count or 3)
    if not colour and (count or pixels.ndim != dimension):
        forms = f"({axes}, {count})" if count else f"({axes}) or ({axes}, 3)"
        raise UserError(f"an array of shape {pixels.shape}: the task needs {forms}")
    if not pixels.size or pixels.dtype.kind not in "biuf":
        raise UserError(f"an array of shape {pixels.shape} and type {pixels.dtype}: expected numbers, at least one")
    mm = [1.0] * dimension if spacing is None else [float(size) for size in spacing]
    if len(mm) != dimension or not all(size > 0 for size in mm):
        raise UserError(f"spacing {list(spacing or ())}: expected {dimension} numbers above 0, along {axes}")
    channels = np.moveaxis(pixels, -1, 0) if colour else pixels[None]
    values = np.ascontiguousarray(channels, dtype=np.float32)
    if not np.isfinite(values).all():
        raise UserError("an array with NaN or infinite values; replace them first")
    affine = np.diag([*mm[::-1], *[1.0] * (3 - dimension), 1.0])
    return CaseImage(values, Grid.of(pixels.shape[:dimension], affine))
