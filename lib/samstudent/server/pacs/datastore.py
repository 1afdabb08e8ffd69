"""The host's datastore of a PACS: cases are listed and fetched over DICOMweb, labels are safe on this disk first.

The host's own knows CT alone, loses labels of radiographs, and looks at the PACS every two hours
(docs/reference/host.md). Here a folder stands for the PACS: one small file a case with what must be known to fetch it,
and labels as in any other study folder, with all that ``StudyFolderDatastore`` promises of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samstudent import __version__
from samstudent.errors import NotFound, Unavailable, UserError
from samstudent.imaging.case import read_image
from samstudent.imaging.dicom import geometry_of
from samstudent.imaging.formats import Stored
from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks
from samstudent.imaging.resampling import to_grid
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.server.datastore.label_rules import ImageRules, LabelCheck, LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.pacs.cache import ImageCache
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.exchange import Exchange
from samstudent.server.pacs.listing import EXTENSION, Reference, films, is_volume, volume
from samstudent.server.pacs.outgoing import accepted
from samstudent.server.pacs.sync_state import LabelVersion, SyncState
from samstudent.server.pacs.upright import is_tilted
from samstudent.task import Task
from samstudent.util.files import atomic_write

logger = logging.getLogger(__name__)

#: Info that says of a label that it came from the PACS; no client may.
ONLY_FROM_PACS = frozenset({"source", "content_time", "SOPInstanceUID", "SeriesInstanceUID", "assisted_by"})
#: A client that saves a label is told so after this long, even if the PACS does not have it yet.
SEND_SECONDS = 3.0
#: So long may the first look at the PACS keep the server from starting.
FIRST_POLL_SECONDS = 20.0


class PacsDatastore(StudyFolderDatastore):
    """A DICOMweb server as a study.

    Args:
        folder: of this task's state: references to the cases, labels, what is known of the PACS.
        pacs: the server.
        task: which dimension its cases have, and whose structures labels show.
        images: folder of the image cache; tasks may share it.
        check_label: may refuse a label.
    """

    def __init__(
        self, folder: Path, pacs: Pacs, task: Task, images: Path, check_label: LabelCheck | None = None
    ) -> None:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self.pacs, self.task = pacs, task
        self.sync_state = SyncState(folder / "pacs.sqlite")
        self._read: dict[str, tuple[int, Reference]] = {}
        self._tilted: dict[tuple[str, int], bool] = {}
        check = check_label and _unless_unavailable(check_label)
        super().__init__(folder, images=ImageRules((EXTENSION,)), labels=LabelRules(task, check=check))
        self.images = ImageCache(images, pacs, pacs.settings.cache_gb * 1e9, self.is_labelled)
        self.exchange = Exchange(self)

    def first_poll(self) -> None:
        """List the PACS before anybody asks. A PACS that is away, or answers nonsense, is no reason not to start."""
        try:
            self.exchange.poll(FIRST_POLL_SECONDS)
        except Exception as error:
            known = len(self.list_images())
            logger.warning("the study starts with the %d cases that were known before: %s", known, error)

    def name(self) -> str:
        return self.pacs.url

    # ---- references ----

    def reference(self, case: str) -> Reference | None:
        """How a case of the study is fetched; None: there is none."""
        path = self._reference_path(case)
        try:
            written = path.stat().st_mtime_ns
            known = self._read.get(case)
            if known is None or known[0] != written:
                known = self._read[case] = written, Reference.from_json(path.read_text())
        except FileNotFoundError:
            return None
        return known[1]

    def references(self) -> dict[str, Reference]:
        """Case id -> reference, of all cases."""
        return {case: found for case in self.list_images() if (found := self.reference(case))}

    def put_references(self, wanted: Mapping[str, Reference]) -> None:
        """Make these the study's cases. Labels of a case that is gone are kept, and are its labels when it is back."""
        present = self.references()
        changed = [reference for case, reference in wanted.items() if present.get(case) != reference]
        gone = set(present) - set(wanted)
        if not changed and not gone:
            return
        with self.transaction():
            for reference in changed:
                atomic_write(self._reference_path(reference.case), reference.to_json())
            for case in gone:
                self._reference_path(case).unlink(missing_ok=True)
            self._reconcile_datastore()
        logger.info(
            "PACS %s: %d cases, %d new or changed, %d gone", self.pacs.url, len(wanted), len(changed), len(gone)
        )

    def _reference_path(self, case: str) -> Path:
        return Path(self._datastore.image_path()) / f"{case}{EXTENSION}"

    def _any_reference(self, case: str) -> Reference:
        """Of a case of the study, or of any series of the PACS: a viewer may have one open that no filter lists."""
        if found := self.reference(case):
            return found
        series = self.pacs.one_series(case)
        if series is None:
            raise NotFound(f"image {case!r} is neither a case of the study nor a series of PACS {self.pacs.url}")
        if is_volume(series):
            return volume(series)
        found_films = films(series, self.pacs.instances(series.study, series.uid), {})
        if len(found_films) != 1:
            ids = ", ".join(film.case for film in found_films) or "none that has one frame"
            raise NotFound(f"series {case!r} holds {len(found_films)} images; ask for one of them: {ids}")
        return found_films[0]

    # ---- images ----

    def get_image_uri(self, image_id: str) -> str:
        """A DICOM file, of a volume a folder of them; fetched where it is not on this disk.

        Raises:
            NotFound: the PACS has no such series. Unavailable: it does not answer. UserError: it cannot be used.
        """
        return str(self._readable(self._any_reference(image_id)))

    def viewer_file(self, image_id: str) -> Path:
        """The image as one file, for clients that fetch it from this server. Raises as ``get_image_uri``."""
        reference = self._any_reference(image_id)
        self._readable(reference)
        return self.images.for_viewer(reference)

    def viewer_grid_file(self, image_id: str) -> Path | None:
        """``viewer_file`` where it lies on another grid than the case, because the gantry was tilted; else None."""
        reference = self._any_reference(image_id)
        if reference.image:
            return None
        key = (image_id, reference.images)
        if key not in self._tilted:
            self._tilted[key] = is_tilted(*geometry_of(self._readable(reference)))
        return self.images.for_viewer(reference) if self._tilted[key] else None

    def viewer_label(self, image_id: str, tag: str) -> Path | None:
        """A label on the grid of ``viewer_grid_file``; None where the label's own file fits what viewers have."""
        file = self.viewer_grid_file(image_id)
        if file is None:
            return None
        own, shown = read_image(self.get_image_uri(image_id)).grid, read_image(file).grid
        label = Path(self.get_label_uri(image_id, tag))
        names = names_for_reading(label, self.get_label_info(image_id, tag))
        masks = own.to_file(read_masks(label, self.task, own, names=names))
        moved = to_grid(masks, Stored(masks[0], own.shape, own.affine), shown, label)
        path = file.parent / f"{tag}.seg.nrrd"
        write_masks(path, moved, self.task, shown)
        return path

    # ---- images that cannot be used ----

    def image_problem(self, image_id: str) -> str | None:
        """Why an image cannot be used; None where it can, or where the PACS does not send it now. Fetches and reads it
        unless that was done."""
        try:
            self.get_image_uri(image_id)
        except Unavailable:
            return None
        except UserError as error:
            return str(error)
        return None

    def unreadable(self) -> dict[str, str]:
        """Case -> why its image cannot be used, as far as it was read. Such a case is not offered to anybody."""
        references = self.references()
        return {
            case: problem
            for case, (state, problem) in self.sync_state.image_problems().items()
            if case in references and state == self._state_of(references[case])
        }

    def _readable(self, reference: Reference) -> Path:
        """The image's place, after it was read once; what it says is known then."""
        path, state = self.images.get(reference), self._state_of(reference)
        problem = self.sync_state.image_problem(reference.case, state)
        if problem is None:
            problem = ""
            try:
                read_image(path, self.task.dimension)
            except UserError as error:
                problem = f"{reference.case}: {_without_places(str(error), path)}"
                logger.error("the case cannot be used: %s", problem)
            self.sync_state.set_image_problem(reference.case, state, problem)
        if problem:
            raise UserError(problem)
        return path

    def _state_of(self, reference: Reference) -> str:
        """Of an image and of what reads it: with another, it is tried again."""
        return f"{reference.images} {self.task.dimension}D {__version__}"

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """With what viewers need to open the image from the PACS, and the file that Slicer opens or fetches."""
        info: dict[str, Any] = super().get_image_info(image_id)
        if reference := self.reference(image_id):
            file = self.images.viewer_place(reference)
            name = f"{image_id}{'.dcm' if reference.image else '.nii.gz'}"
            info |= {**reference.info(self.pacs.url), "path": str(file), "name": name}
        return info

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        raise UserError(f"images of this study come from PACS {self.pacs.url}: store it there")

    def remove_image(self, image_id: str) -> None:
        raise UserError(f"images of this study lie in PACS {self.pacs.url}: delete it there")

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        references = self.references()
        return [
            {"image": str(self.images.viewer_place(references[case])), "label": self.get_label_uri(case, FINAL)}
            for case in self.get_labeled_images()
            if case in references
        ]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        for case in self.get_labeled_images()[: limit_cases or None]:
            self.viewer_file(case)
        return super().get_dataset_archive(limit_cases)

    # ---- labels ----

    def is_labelled(self, case: str) -> bool:
        return FINAL in self.get_labels_by_image_id(case)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """As in any study; the label then goes to the PACS by itself."""
        if self.reference(image_id) is None and self.exchange.state.connected:
            self.exchange.poll(0)  # drawn on a series that has just arrived
        label_info = {key: value for key, value in (label_info or {}).items() if key not in ONLY_FROM_PACS}
        if label_tag == FINAL and (models := self.get_image_info(image_id).get("assisted_by")):
            label_info["assisted_by"] = models
        saved = super().save_label(image_id, label_filename, label_tag, label_info)
        if label_tag in (FINAL, PSEUDO):
            self.exchange.wake()
        return saved

    def note_assistance(self, case: str, model: str) -> None:
        """A model has drawn on this case for somebody: a label saved from now on is not by hand alone."""
        models = self.get_image_info(case).get("assisted_by", [])
        if self.reference(case) and model not in models:
            self.update_image_info(case, {"assisted_by": sorted({*models, model})})

    def take_from_pacs(self, case: str, seg: Path, info: dict[str, Any]) -> None:
        """A human's segmentation from the PACS as the final label; an earlier one goes to the history.

        It is checked against the image only where that is here already: a thousand labels need not fetch all images.
        """
        reference, info = self.reference(case), self.labels.with_value_names(FINAL, seg, info)
        if self.labels.rules.check and reference and self.images.has(reference):
            self.labels.rules.check(case, seg, FINAL, info)
        self.labels.put(case, seg, FINAL, info)

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """With ``pacs``: whether the PACS has it."""
        info: dict[str, Any] = super().get_label_info(label_id, label_tag)
        if label_tag in (FINAL, PSEUDO) and info:
            info = {**info, "pacs": self.label_state(label_id, label_tag)}
        return info

    def label_state(self, case: str, tag: str) -> dict[str, Any]:
        """Whether the PACS has the label in force: ``state`` stored, waiting or refused, with where or why."""
        label = LabelVersion(case, tag, self.version(case, tag))
        if stored := self.sync_state.stored_label(label):
            return {"state": "stored", "SeriesInstanceUID": stored.series, "SOPInstanceUID": stored.instance}
        if failure := self.sync_state.failures().get(label):
            return {"state": "refused", "reason": failure.reason}
        reason = self.exchange.state.reason or "not sent yet"
        return {"state": "waiting", "reason": f"{reason}; it is safe on this server and is sent as soon as possible"}

    def version(self, case: str, tag: str) -> str:
        """Tells the label in force from every other that this case ever had; "" if there is none."""
        label = self._datastore.label(case, tag)
        if label is None:
            return ""
        content = str(label.info.get("sha256", ""))
        # Drawn a second time, a human's label is in force again; a pseudo label made again is the same.
        return f"{content} {label.info.get('time', '')}" if tag == FINAL else content

    def labels_to_send(self) -> Iterator[LabelVersion]:
        """The labels that belong into the PACS."""
        for case, entry in self._datastore.objects.items():
            if FINAL in entry.labels:
                yield LabelVersion(case, FINAL, self.version(case, FINAL))
            elif PSEUDO in entry.labels and self.pacs.settings.pseudo and accepted(entry.labels[PSEUDO].info):
                yield LabelVersion(case, PSEUDO, self.version(case, PSEUDO))


class ViewersGrid:
    """The datastore as clients see it that fetch images from this server: of a tilted volume the image is
    ``viewer_grid_file``, so that what they point at and what they are answered lies on the grid that they have."""

    def __init__(self, datastore: PacsDatastore) -> None:
        self._datastore = datastore

    def __getattr__(self, name: str) -> Any:
        return getattr(self._datastore, name)

    def get_image_uri(self, image_id: str) -> str:
        return str(self._datastore.viewer_grid_file(image_id) or self._datastore.get_image_uri(image_id))


def _without_places(message: str, path: Path) -> str:
    """A message about an image without where it is on this disk, which no client knows."""
    return message.removeprefix(f"{path}: ").replace(f"{path}{os.sep}", "").replace(str(path), "it")


def _unless_unavailable(check: LabelCheck) -> LabelCheck:
    """A label cannot be checked without its image; a human's work is not refused because the PACS is away."""

    def checked(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        try:
            check(case, file, tag, info)
        except Unavailable as error:
            logger.warning("the label of %s is taken unchecked: %s", case, error)

    return checked
