"""Drawing of labels of one study: data of a case for the page, drafts, labels that are saved, and their history."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import Conflict, NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks, read_label
from samstudent.imaging.case import CaseImage, for_sam, read_image
from samstudent.imaging.label_tags import FINAL, PSEUDO, PSEUDO_RAW
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks, read_rejected
from samstudent.imaging.structure_names import IGNORE
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.server.annotation.drafts import Drafts
from samstudent.server.annotation.drawn_label import CompleteLabel, DrawnLabel, complete_label, encoded
from samstudent.server.annotation.live_sam import LiveSam, SamRequest
from samstudent.server.annotation.pixels import RawPixels
from samstudent.server.context import ServerContext
from samstudent.server.datastore.history import version_info
from samstudent.server.datastore.identifiers import ANNOTATION, REFUSED
from samstudent.server.review_metadata import case_review, other_versions
from samstudent.server.review_page.pictures import AXES, SIDES, Cache, Cropped, Slice
from samstudent.server.review_page.service import ReviewService
from samstudent.util.files import sha256_file

#: Size of the cache of images; one of 3000 x 3000 pixels has 18 MB.
CACHE_BYTES = 256 << 20
#: Digest of a case without a human label.
NO_LABEL = "none"
#: Sources of masks that a model makes, and the model that makes them where there is no pseudo label.
MODELS = {"student": "student", "sam": "student+sam"}


class AnnotationService:
    """Drawing of labels on the study and the datastore of one server.

    Args:
        context: parts of the server.
        review: review of the same study, for its keys of images.
    """

    def __init__(self, context: ServerContext, review: ReviewService) -> None:
        self.context, self.study, self.task, self.datastore = context, context.study, context.task, context.datastore
        self.review = review
        self.drafts = Drafts(self.study.folder / "drafts")
        self.sam = LiveSam(self.study)
        self._cache = Cache(CACHE_BYTES)

    # ---- one case ----

    def case(self, case: str, who: str) -> dict[str, Any]:
        """Data of a case for the page, as JSON values."""
        pixels = self.pixels(case)
        volume = len(pixels.grid.spatial_shape) == 3
        labels = self.datastore.label_infos(case)[case]
        draft, flag = self.drafts.get(who, case), self.study.flags.all().get(case)
        label = labels.get(FINAL)
        return {
            "case": case,
            "image": self.review.image_key(case),
            "size": list(pixels.grid.spatial_shape),
            "spacing": list(pixels.grid.spacing),
            "pixels": pixels.as_json(),
            "overlap": self.task.overlap,
            "axes": {name: pixels.grid.spatial_shape[axis] for name, axis in AXES.items()} if volume else None,
            "sides": SIDES if volume else None,
            "label": {"digest": self.digest(case)} | (_brief(label) if label else {}),
            "draft": {"saved": draft.saved, "base": draft.label.base} if draft else None,
            "flag": flag.model_dump() if flag else None,
            "review": review.model_dump() if (review := case_review(labels)) else None,
            "sources": self._sources(labels),
            "pseudo": {name: dict(found) for name, found in (labels.get(PSEUDO, {}).get("structures") or {}).items()},
        }

    def pixels(self, case: str) -> RawPixels:
        """Pixels of a case, cached."""
        key = self.review.image_key(case)

        def read() -> tuple[RawPixels, int]:
            found = RawPixels.of(self._image(case), self.task.image)
            return found, found.nbytes

        pixels: RawPixels = self._cache.get(("pixels", case, key), read)
        return pixels

    def plane(self, case: str, axis: str | None, index: int | None) -> bytes:
        """Pixels of a case, or of a plane of it. Raises UserError for a plane that does not exist."""
        pixels = self.pixels(case)
        where = Slice.checked(pixels.grid.spatial_shape, axis, index, 1024)
        return pixels.plane(where.axis, where.index)

    def digest(self, case: str) -> str:
        """Digest of the human label, or ``NO_LABEL``."""
        label = self.datastore.get_label_info(case, FINAL)
        if not label:
            return NO_LABEL
        return str(label.get("sha256") or sha256_file(Path(self.datastore.get_label_uri(case, FINAL))))

    # ---- masks ----

    def label_masks(self, case: str, version: str | None = None) -> dict[str, Any]:
        """Structures of the human label of a case, or of another version of it (``id`` of the history), as JSON.

        Raises:
            NotFound: no such label or version.
        """
        if version is None:
            path = Path(self.datastore.get_label_uri(case, FINAL))
            info: Mapping[str, Any] = self.datastore.get_label_info(case, FINAL)
            if not info:
                raise NotFound(f"{case!r} has no label")
        else:
            path, info = self._version(case, version)
        grid = self.pixels(case).grid
        found = read_label(path, self.task, grid, names=names_for_reading(path, info))
        return self._structures(found, "label")

    def model_masks(self, case: str, source: str) -> dict[str, Any]:
        """Structures as a model draws them, as JSON: from the pseudo label, or made now.

        Args:
            case: case id.
            source: key of ``MODELS``.

        Raises:
            UserError: another source. Conflict, NotFound: there is no student.
        """
        if source not in MODELS:
            raise UserError(f"source must be one of {', '.join(MODELS)}, not {source!r}")
        tag = PSEUDO if source == "sam" else PSEUDO_RAW
        grid = self.pixels(case).grid
        stored = self.datastore.get_label_uri(case, tag)
        if stored and Path(stored).is_file():
            masks = read_masks(stored, self.task, grid)
            if source == "sam":
                masks |= read_rejected(stored, self.task, grid)
            if not self.task.overlap:
                masks = _exclusive(masks)
            return self._structures(LabelledMasks(masks), source)
        model = self.context.model(MODELS[source])
        request = {"model": MODELS[source], "image": self.datastore.get_image_uri(case)}
        request |= {"result_extension": ".seg.nrrd", "result_compress": "false"}
        file, _ = self.context.inference.run(lambda: model(dict(request)))
        try:
            return self._structures(LabelledMasks(read_masks(file, self.task, grid)), source)
        finally:
            Path(file).unlink(missing_ok=True)

    def prepare(self, case: str, axis: str | None, index: int | None) -> None:
        """Make the embedding of a plane, and build SAM's decoder, so that the first box is answered at once."""
        self.context.inference.run(lambda: self.sam.build(*self._embedding(case, axis, index, None)))

    def sam_mask(self, case: str, axis: str | None, index: int | None, request: SamRequest) -> dict[str, Any]:
        """Mask of SAM for the prompts of a person; see ``LiveSam.mask``."""
        self.require_known(case)

        def draw() -> dict[str, Any]:
            embedding, backend = self._embedding(case, axis, index, request.structure)
            return self.sam.mask(embedding, request, backend)

        return self.context.inference.run(draw)

    # ---- label ----

    def save(self, case: str, drawn: DrawnLabel, base: str, who: str) -> dict[str, Any]:
        """Save a drawn label as human label; the draft is removed.

        Args:
            case: case id.
            drawn: the label.
            base: digest of the label that the person has seen.
            who: user name.

        Raises:
            UserError: the label is not complete.
            Conflict: another label was saved in the meantime. The refused label is in the history and in the draft.
        """
        grid = self.pixels(case).grid
        label = complete_label(drawn, self.task, grid.spatial_shape)
        info = {"user": who, "client_id": who, ANNOTATION: dict(label.info)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.seg.nrrd"
            self._write(path, label, case)
            with self.datastore.transaction():
                current = self.digest(case)
                if current != base:
                    saved = self.drafts.put(who, case, drawn)
                    refused = {**info, REFUSED: True, "sha256": sha256_file(path), "time": saved}
                    self.datastore.labels.history.store(FINAL, case, refused, path, ".seg.nrrd")
                    by = self.datastore.get_label_info(case, FINAL).get("user") or "somebody"
                    raise Conflict(
                        f"the label of {case!r} was {'removed' if current == NO_LABEL else f'changed by {by}'} in the "
                        "meantime. Yours is kept in the history and as draft: compare them, then submit again"
                    )
                info |= self.context.label_reviews.kept(case)
                self.datastore.save_label(case, str(path), FINAL, info)
        self.drafts.remove(who, case)
        self.study.reviews.forget([case])
        return self.context.wait_for_pacs(case) | {"case": case, "digest": self.digest(case)}

    def history(self, case: str) -> list[dict[str, Any]]:
        """Versions of the human label, as JSON: the current one, with ``id`` None; versions saved in 3D Slicer
        that never became the human label; the earlier ones. Each kind is sorted newest first."""
        self.require_known(case)
        labels = self.datastore.label_infos(case)[case]
        found = {None: labels[FINAL]} if FINAL in labels else {}
        paths = reversed(self.datastore.labels.history.versions(FINAL, case))
        earlier = {path.name: version_info(path) for path in paths}
        known = {info["sha256"] for info in earlier.values()}
        proposed = {tag: labels[tag] for tag in other_versions(labels) if labels[tag].get("sha256") not in known}
        return [{"id": name} | _brief(info) for name, info in (found | proposed | earlier).items()]

    # ---- parts ----

    def require_known(self, case: str) -> None:
        """Raises NotFound for a case that is not in the study."""
        if case not in self.datastore.label_infos(case):
            raise NotFound(f"image {case!r} is not in the study")

    def _image(self, case: str) -> CaseImage:
        return read_image(self.datastore.get_image_uri(case), self.task.dimension)

    def _sam_pixels(self, case: str) -> NDArray[np.uint8]:
        """Input of SAM, uint8 (*spatial, 1 or 3), cached: a volume must not be read for each of its planes."""

        def read() -> tuple[NDArray[np.uint8], int]:
            image = self._image(case)
            is_grey = len(image.pixels) == 1
            pixels = np.ascontiguousarray(for_sam(image, self.task.image)[..., : 1 if is_grey else 3])
            return pixels, pixels.nbytes

        pixels: NDArray[np.uint8] = self._cache.get(("sam", case, self.review.image_key(case)), read)
        return pixels

    def _embedding(self, case: str, axis: str | None, index: int | None, structure: str | None) -> Any:
        """(Embedding of a plane, its SAM)."""
        where = Slice.checked(self.pixels(case).grid.spatial_shape, axis, index, 1024)

        def plane() -> NDArray[np.uint8]:
            pixels = self._sam_pixels(case)
            cut = pixels if where.axis is None else np.take(pixels, where.index or 0, axis=AXES[where.axis])
            return np.ascontiguousarray(np.broadcast_to(cut, (*cut.shape[:2], 3)))

        backend = self.sam.backend(structure)
        return self.sam.embedding((case, self.review.image_key(case), where.axis, where.index), plane, backend), backend

    def _sources(self, labels: Mapping[str, Any]) -> list[str]:
        """Sources of masks that a drawing of this case can start from."""
        usable = self.study.ledger.champion() is not None and self.context.student_fault() is None
        tags = {"student": PSEUDO_RAW, "sam": PSEUDO}
        return [source for source, model in MODELS.items() if tags[source] in labels or (usable and self._has(model))]

    def _has(self, model: str) -> bool:
        return model in self.context.tasks.models

    def _structures(self, found: LabelledMasks, start: str) -> dict[str, Any]:
        structures = {}
        for name, mask, annotated in zip(self.task.names, found.masks, found.annotated, strict=True):
            drawn = Cropped.of(mask)
            state = "unknown" if not annotated else "drawn" if drawn else "absent"
            structures[name] = {"state": state, "start": start, **encoded(drawn)}
        return {"structures": structures}

    def _write(self, path: Path, label: CompleteLabel, case: str) -> None:
        unknown = None
        if label.unknown.any():
            unknown = {IGNORE: np.zeros_like(label.masks)}
            unknown[IGNORE][label.unknown] = True
        write_masks(path, label.masks, self.task, self.pixels(case).grid, marked=unknown)

    def _version(self, case: str, name: str) -> tuple[Path, Mapping[str, Any]]:
        """File and metadata of a version of the history, or of one that was saved in 3D Slicer."""
        labels = self.datastore.label_infos(case)[case]
        if name in other_versions(labels):
            return Path(self.datastore.get_label_uri(case, name)), labels[name]
        versions = {path.name: path for path in self.datastore.labels.history.versions(FINAL, case)}
        if name not in versions:
            raise NotFound(f"{case!r} has no earlier label {name!r}")
        return versions[name], version_info(versions[name])


def _brief(info: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a label for the page."""
    about = info.get(ANNOTATION) or {}
    brief = {"user": info.get("user") or info.get("client_id"), "time": info.get("time")}
    brief |= {"seconds": about.get("seconds"), "start": about.get("start"), "refused": bool(info.get(REFUSED))}
    return brief


def _exclusive(masks: NDArray[Any]) -> NDArray[Any]:
    """Masks without shared pixels: the first structure keeps them."""
    taken = np.cumsum(masks, axis=0, dtype=np.int16) > 1
    return np.asarray(masks & ~taken)
