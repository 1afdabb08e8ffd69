"""What the synchronisation needs of a study whose images lie in a PACS; ``datastore.PacsDatastore`` is one."""

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
        task: whose structures the labels show.
        pacs: the DICOMweb server.
        sync_state: what is known of the segmentations in the PACS.
    """

    task: Task
    pacs: Pacs
    sync_state: SyncState

    def list_images(self) -> list[str]:
        """Ids of the cases."""

    def references(self) -> dict[str, Reference]:
        """Case id -> reference to its images in the PACS."""

    def put_references(self, wanted: Mapping[str, Reference]) -> None:
        """Make these the study's cases; labels of a case that is gone are kept."""

    def unreadable(self) -> dict[str, str]:
        """Case id -> why its image cannot be used."""

    def labels_to_send(self) -> Iterator[LabelVersion]:
        """The labels that belong into the PACS."""

    def version(self, case: str, tag: str) -> str:
        """Identifier of the current content of a label; "" where there is none."""

    def get_image_uri(self, image_id: str) -> str:
        """Path of a case's image, fetched where it is not on this disk."""

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label's file."""

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is recorded of a label; {} where there is none."""

    def take_from_pacs(self, case: str, seg: Path, info: dict[str, Any]) -> None:
        """Make a human's segmentation from the PACS the case's final label."""
