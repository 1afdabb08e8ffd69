"""Interface of a PACS study for the synchronisation, implemented by ``datastore.PacsDatastore``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from samstudent.server.pacs.client import Pacs
from samstudent.server.pacs.listing import Reference
from samstudent.server.pacs.sync_state import LabelVersion, SyncState
from samstudent.task import Task


class PacsStudy(Protocol):
    """A study with its cases, its labels, and the state of its synchronisation with the PACS.

    Attributes:
        task: task with the structures of the labels.
        pacs: the DICOMweb server.
        sync_state: state of the synchronisation.
    """

    task: Task
    pacs: Pacs
    sync_state: SyncState

    def list_images(self) -> list[str]:
        """Ids of the cases."""

    def references(self) -> dict[str, Reference]:
        """References of all cases, by case id."""

    def put_references(self, references: Mapping[str, Reference]) -> None:
        """Replace the cases of the study; labels of removed cases are kept."""

    def unreadable(self) -> dict[str, str]:
        """Reasons by case id of the images that are known to be unusable."""

    def labels_to_send(self) -> Iterator[LabelVersion]:
        """Labels that the PACS should have."""

    def version(self, case: str, tag: str) -> str:
        """Identifier of the current content of a label; "" if there is none."""

    def get_image_uri(self, image_id: str) -> str:
        """Path of a case's image, fetched if necessary."""

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label's file."""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Metadata of a label; {} if there is no such label."""

    def take_from_pacs(self, case: str, seg: Path, info: dict[str, Any]) -> None:
        """Save a human segmentation from the PACS as the final label."""
