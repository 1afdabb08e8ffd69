"""Datastore of a PACS: cases are listed and fetched over DICOMweb; labels are stored on this disk before they are sent.

The host's datastore supports CT only, loses labels of radiographs, and queries the PACS every two hours
(docs/reference/host.md). Here the study is a folder as well: one reference file for each case in place of its image,
and labels as in ``StudyFolderDatastore``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samstudent.errors import Unavailable, UserError
from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.server.datastore.label_rules import ImageRules, LabelCheck, LabelRules
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.datastore.viewer_grid import TiltedVolumes
from samstudent.server.pacs.cache import ImageCache
from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.exchange import Exchange
from samstudent.server.pacs.image_check import PacsImageCheck
from samstudent.server.pacs.listing import EXTENSION, Reference
from samstudent.server.pacs.outgoing import accepted
from samstudent.server.pacs.references import ReferenceFiles, query_reference
from samstudent.server.pacs.sync_state import LabelVersion, SyncState
from samstudent.task import Task

logger = logging.getLogger(__name__)

#: Keys of a label's metadata that only labels from the PACS have; a client cannot set them.
ONLY_FROM_PACS = frozenset({"source", "content_time", "SOPInstanceUID", "SeriesInstanceUID", "assisted_by"})
#: Longest wait of a client that saves a label for its transfer to the PACS, seconds.
SEND_SECONDS = 3.0
#: Longest delay of the server's start by the first poll of the PACS, seconds.
FIRST_POLL_SECONDS = 20.0


class PacsDatastore(StudyFolderDatastore):
    """DICOMweb server as a study.

    Args:
        folder: state of this task: references to the cases, labels, synchronisation with the PACS.
        pacs: DICOMweb server.
        task: task with the dimension of the cases and the structures of the labels.
        images: folder of the image cache; tasks may share it.
        check_label: check of a label before it is saved.
    """

    def __init__(
        self, folder: Path, pacs: Pacs, task: Task, images: Path, check_label: LabelCheck | None = None
    ) -> None:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self.pacs, self.task = pacs, task
        self.sync_state = SyncState(folder / "pacs.sqlite")
        self._references = ReferenceFiles(lambda: str(self._datastore.image_path()))
        self._tilted = TiltedVolumes()
        check = check_label and _unless_unavailable(check_label)
        super().__init__(folder, images=ImageRules((EXTENSION,)), labels=LabelRules(task, check=check))
        self.images = ImageCache(images, pacs, pacs.settings.cache_gb * 1e9, self.is_labelled)
        self._image_check = PacsImageCheck(self.images, self.sync_state, task.dimension)
        self.exchange = Exchange(self)

    def first_poll(self) -> None:
        """Query the PACS at the start; an unreachable PACS or an invalid response does not prevent the start."""
        try:
            self.exchange.poll(FIRST_POLL_SECONDS)
        except Exception as error:
            logger.warning("the study starts with its %d cases of the last run: %s", len(self.list_images()), error)

    def name(self) -> str:
        return self.pacs.url

    # ---- references ----

    def reference(self, case: str) -> Reference | None:
        """Reference of a case; None: it is not a case of the study."""
        return self._references.get(case)

    def references(self) -> dict[str, Reference]:
        """References of all cases, by case id."""
        return {case: found for case in self.list_images() if (found := self.reference(case))}

    def put_references(self, references: Mapping[str, Reference]) -> None:
        """Replace the cases of the study. Labels of a removed case are kept, and used again if the case returns."""
        present = self.references()
        changed = [reference for case, reference in references.items() if present.get(case) != reference]
        gone = set(present) - set(references)
        if not changed and not gone:
            return
        with self.transaction():
            for reference in changed:
                self._references.put(reference)
            for case in gone:
                self._references.remove(case)
            self._reconcile_datastore()
        logger.info(
            "PACS %s: %d cases, %d new or changed, %d removed", self.pacs.url, len(references), len(changed), len(gone)
        )

    def _reference_or_query(self, case: str) -> Reference:
        """Reference of a case of the study, or of another series of the PACS."""
        return self.reference(case) or query_reference(self.pacs, case)

    # ---- images ----

    def get_image_uri(self, image_id: str) -> str:
        """Path of the DICOM file, or of the folder of a volume; fetched if it is not in the cache.

        Raises:
            NotFound: the PACS has no such series. Unavailable: no response. UserError: the image is unusable.
        """
        return str(self._image_check.readable(self._reference_or_query(image_id)))

    def viewer_file(self, image_id: str) -> Path:
        """Image as one file, for clients that load it from this server. Raises as ``get_image_uri``."""
        reference = self._reference_or_query(image_id)
        self._image_check.readable(reference)
        return self.images.for_viewer(reference)

    def viewer_grid_file(self, image_id: str) -> Path | None:
        """``viewer_file`` of a volume with a tilted gantry, whose grid differs from the case's grid; otherwise None."""
        reference = self._reference_or_query(image_id)
        if reference.image:
            return None
        state = (image_id, reference.images)
        is_tilted = self._tilted.has(state, lambda: self._image_check.readable(reference))
        return self.images.for_viewer(reference) if is_tilted else None

    # ---- unusable images ----

    def image_problem(self, image_id: str) -> str | None:
        """Reason that an image is unusable; None if it is usable or cannot be fetched now. Reads it if necessary."""
        try:
            self.get_image_uri(image_id)
        except Unavailable:
            return None
        except UserError as error:
            return str(error)
        return None

    def unreadable(self) -> dict[str, str]:
        """Reasons by case id of the images that are known to be unusable; such cases are not selected for labelling."""
        return self._image_check.problems(self.references())

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Metadata with the UIDs by which viewers open the image from the PACS, and the file for 3D Slicer."""
        info: dict[str, Any] = super().get_image_info(image_id)
        if reference := self.reference(image_id):
            file = self.images.viewer_place(reference)
            name = f"{image_id}{'.dcm' if reference.image else '.nii.gz'}"
            info |= {**reference.info(self.pacs.url), "path": str(file), "name": name}
        return info

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        raise UserError(f"images of this study are in PACS {self.pacs.url}: store the image there")

    def remove_image(self, image_id: str) -> None:
        raise UserError(f"images of this study are in PACS {self.pacs.url}: delete the image there")

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
        """Save a label; the background thread sends it to the PACS."""
        if self.reference(image_id) is None and self.exchange.state.connected:
            self.exchange.poll(0)  # the series may have arrived after the last poll
        label_info = {key: value for key, value in (label_info or {}).items() if key not in ONLY_FROM_PACS}
        if label_tag == FINAL and (models := self.get_image_info(image_id).get("assisted_by")):
            label_info["assisted_by"] = models
        saved = super().save_label(image_id, label_filename, label_tag, label_info)
        if label_tag in (FINAL, PSEUDO):
            self.exchange.wake()
        return saved

    def note_assistance(self, case: str, model: str) -> None:
        """Record that a model was applied to this case: labels saved from now on count as semi-automatic."""
        models = self.get_image_info(case).get("assisted_by", [])
        if self.reference(case) and model not in models:
            self.update_image_info(case, {"assisted_by": sorted({*models, model})})

    def take_from_pacs(self, case: str, seg: Path, info: dict[str, Any]) -> None:
        """Save a human segmentation from the PACS as the final label; an earlier one goes to the history.

        It is checked against the image only if that is in the cache: an import of many labels fetches no images.
        """
        reference, info = self.reference(case), self.labels.with_value_names(FINAL, seg, info)
        if self.labels.rules.check and reference and self.images.has(reference):
            self.labels.rules.check(case, seg, FINAL, info)
        self.labels.put(case, seg, FINAL, info)

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Metadata with key ``pacs``: state of the transfer to the PACS."""
        info: dict[str, Any] = super().get_label_info(label_id, label_tag)
        if label_tag in (FINAL, PSEUDO) and info:
            info = {**info, "pacs": self.label_state(label_id, label_tag)}
        return info

    def label_state(self, case: str, tag: str) -> dict[str, Any]:
        """Transfer of the current label to the PACS: ``state`` (stored, waiting or refused), with UIDs or reason."""
        label = LabelVersion(case, tag, self.version(case, tag))
        if stored := self.sync_state.stored_label(label):
            return {"state": "stored", "SeriesInstanceUID": stored.series, "SOPInstanceUID": stored.instance}
        if failure := self.sync_state.failures().get(label):
            return {"state": "refused", "reason": failure.reason}
        reason = self.exchange.state.reason or "not sent yet"
        return {
            "state": "waiting",
            "reason": f"{reason}; the label is saved here and is sent as soon as possible",
        }

    def version(self, case: str, tag: str) -> str:
        """Identifier of the current label among all that this case ever had; "" if there is none."""
        label = self._datastore.label(case, tag)
        if label is None:
            return ""
        content = str(label.info.get("sha256", ""))
        # A human label saved twice is a new version; a pseudo label with the same content is not.
        return f"{content} {label.info.get('time', '')}" if tag == FINAL else content

    def labels_to_send(self) -> Iterator[LabelVersion]:
        """Labels that the PACS should have."""
        for case, entry in self._datastore.objects.items():
            if FINAL in entry.labels:
                yield LabelVersion(case, FINAL, self.version(case, FINAL))
            elif PSEUDO in entry.labels and self.pacs.settings.pseudo and accepted(entry.labels[PSEUDO].info):
                yield LabelVersion(case, PSEUDO, self.version(case, PSEUDO))


def _unless_unavailable(check: LabelCheck) -> LabelCheck:
    """Check that accepts a label if its image cannot be fetched: no work is lost because of an unreachable PACS."""

    def checked(case: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        try:
            check(case, file, tag, info)
        except Unavailable as error:
            logger.warning("the label of case %s is saved without a check: %s", case, error)

    return checked
