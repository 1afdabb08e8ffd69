"""Review of pseudo labels of one study: data of a case for the page, and decisions of reviewers."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samstudent.errors import Conflict, NotFound
from samstudent.imaging.case import read_image
from samstudent.imaging.folder import stamp_of
from samstudent.imaging.label_tags import FINAL, PSEUDO, PSEUDO_RAW
from samstudent.imaging.label_writing import write_masks
from samstudent.imaging.labels import read_masks, read_rejected
from samstudent.imaging.structure_names import IGNORE
from samstudent.pseudolabels.review import Verdict, check_sources, compose
from samstudent.server.context import ServerContext
from samstudent.server.datastore.identifiers import ACCEPTED_FROM, PROMISE
from samstudent.server.review_metadata import approval
from samstudent.server.review_page.pictures import AXES, SIDES, Cache, Cropped, Shown, Slice, runs
from samstudent.server.review_page.queue import QueueItem, QueuePage, State, page_of, queue_items
from samstudent.util.files import sha256_file

#: Size of the cache of images and masks; a CT of 512 x 512 x 300 has 80 MB.
CACHE_BYTES = 384 << 20


@dataclass(frozen=True)
class Masks:
    """Masks of a pseudo label by structure.

    Attributes:
        refined: masks of SAM, including rejected ones.
        student: masks of the student.
    """

    refined: Mapping[str, Cropped]
    student: Mapping[str, Cropped]

    @property
    def nbytes(self) -> int:
        return sum(mask.nbytes for masks in (self.refined, self.student) for mask in masks.values())


class ReviewService:
    """Review of pseudo labels on the study and the datastore of one server.

    Args:
        context: parts of the server.
    """

    def __init__(self, context: ServerContext) -> None:
        self.context, self.study, self.task, self.datastore = context, context.study, context.task, context.datastore
        self._cache = Cache(CACHE_BYTES)
        # Decisions are serialised; only one server of a study takes decisions.
        self._lock = threading.RLock()

    def queue(self, page: QueuePage) -> dict[str, Any]:
        """Page of the review queue, as JSON."""
        page.check(self.task.names)
        return page_of(queue_items(self.study, self.datastore.label_infos()), page)

    # ---- one case ----

    def entry(self, case: str) -> QueueItem:
        """Item of a case. Raises NotFound if there is no such case, Conflict if it has nothing to review."""
        self._known(case)
        labels = self._labels(case)
        entry = queue_items(self.study, {case: labels}).get(case)
        if entry is not None:
            return entry
        if FINAL in labels:
            raise Conflict(f"{case!r} has a human label; there is nothing to review")
        if case in self.study.holdout.ids | self.study.holdout.excluded:
            raise Conflict(f"{case!r} is in the hold-out or excluded, and has no pseudo label; it needs a human label")
        raise NotFound(f"{case!r} has no pseudo label; the next round, or batch inference, makes one")

    def digest(self, case: str) -> str:
        """Digest of a case's pseudo label and the student's masks, to detect changes after the review."""
        labels = self._labels(case)
        parts = [self._sha256(case, tag, labels[tag]) if tag in labels else "" for tag in (PSEUDO, PSEUDO_RAW)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]

    def case(self, case: str) -> dict[str, Any]:
        """Data of a case for the page, as JSON values."""
        entry, digest = self.entry(case), self.digest(case)
        shown, masks = self.shown(case), self.masks(case)
        volume = len(shown.shape) == 3
        structures = []
        for name in self.task.names:
            row: dict[str, Any] = {"name": name, "status": "absent", **entry.structures.get(name, {})}
            mask = masks.refined.get(name) or masks.student.get(name)
            row |= {"refined": name in masks.refined, "student": name in masks.student}
            row["threshold"] = self.task.threshold_of(name)
            row["slices"] = mask.fullest() if mask is not None and volume else None
            structures.append(row)
        response = entry.as_json() | {"digest": digest, "image": self.image_key(case), "structures": structures}
        response |= {"size": list(shown.shape), "spacing": list(shown.spacing), "overlap": self.task.overlap}
        response["provenance"] = dict(entry.info.get("provenance") or {})
        response["axes"] = {name: shown.shape[axis] for name, axis in AXES.items()} if volume else None
        response["sides"] = SIDES if volume else None
        return response

    def shown(self, case: str) -> Shown:
        """Displayed image of a case, cached."""
        self._known(case)

        def read() -> tuple[Shown, int]:
            image = read_image(self.datastore.get_image_uri(case), self.task.dimension)
            shown = Shown.of(image, self.task.image)
            return shown, shown.nbytes

        shown: Shown = self._cache.get(("image", case, self.image_key(case)), read)
        return shown

    def image_key(self, case: str) -> str:
        """Key of the displayed image, which depends on the file and the image settings."""
        self._known(case)
        path = Path(self.datastore.get_image_uri(case))
        content = f"{path} {stamp_of(path)} {self.task.image.model_dump_json()}"
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def masks(self, case: str) -> Masks:
        """Masks of a case's pseudo label, or of the label that was accepted; cached."""
        with self._lock:  # while a label is being accepted, the list has its entry but the file does not exist yet
            accepted = self.entry(case).state == "accepted"
            final = self._sha256(case, FINAL, self._labels(case)[FINAL]) if accepted else None
            key = ("masks", case, final or self.digest(case), self.image_key(case))
        masks: Masks = self._cache.get(key, lambda: self._read_masks(case, FINAL if accepted else PSEUDO))
        return masks

    def runs(self, case: str, where: Slice) -> dict[str, Any]:
        """Masks of one plane: run lengths (``pictures.runs``) by source and structure."""
        shown, masks = self.shown(case), self.masks(case)
        response: dict[str, Any] = {"size": list(where.extent(shown.shape, shown.spacing))}
        for source, by_name in (("refined", masks.refined), ("student", masks.student)):
            found = {name: runs(mask, where, shown.shape, shown.spacing) for name, mask in by_name.items()}
            response[source] = {name: lengths for name, lengths in found.items() if lengths}
        return response

    # ---- decisions ----

    def accept(self, case: str, digest: str, chosen: Mapping[str, str], who: str) -> dict[str, Any]:
        """Save a case's pseudo label as label of a user.

        Args:
            case: case id.
            digest: digest of the reviewed label.
            chosen: source by structure; see ``review.check_sources``.
            who: user name.

        Returns:
            ``structures`` with their sources, and ``provenance``.

        Raises:
            Conflict: another label or decision in the meantime. UserError: see ``check_sources`` and ``compose``.
        """
        entry = self._undecided(case, digest)
        return self._accept(entry, digest, check_sources(chosen, entry.structures, self.task), {"user": who})

    def accept_promised(self, case: str, digest: str, structures: Collection[str], info: Mapping[str, Any]) -> None:
        """Save the refined masks of some structures as label; all others are not annotated in it.

        Args:
            case: case id.
            digest: digest of the pseudo label.
            structures: names.
            info: ``user``, and ``PROMISE`` for the origin of the label.

        Raises: as ``accept``.
        """
        sources = {name: "refined" if name in structures else "unknown" for name in self.task.names}
        self._accept(self._undecided(case, digest), digest, sources, info)

    def _accept(
        self, entry: QueueItem, digest: str, sources: dict[str, str], more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """``accept`` an undecided case with the source of each structure; ``more``: ``user``, and maybe ``PROMISE``."""
        case = entry.case
        refined, student = (self._uri(case, tag) for tag in (PSEUDO, PSEUDO_RAW))
        grid = self.shown(case).grid
        masks = read_masks(refined, self.task, grid) | read_rejected(refined, self.task, grid) if refined else None
        raw = read_masks(student, self.task, grid) if student else None
        if masks is None:
            raise NotFound(f"{case!r} has no pseudo label; the next round, or batch inference, makes one")
        label = compose(sources, masks, raw if raw is not None else masks & False, self.task)
        taken = {name: row | {"taken": sources[name]} for name, row in entry.structures.items()}
        made_of = {
            "tag": PSEUDO,
            "digest": digest,
            "provenance": entry.info.get("provenance"),
            "time": time.time(),
        }
        made_of |= {PROMISE: more[PROMISE]} if PROMISE in more else {}
        info = {"user": more["user"], ACCEPTED_FROM: made_of | {"structures": taken}}
        info |= {} if PROMISE in more else approval(more["user"])
        unknown = np.zeros_like(label)
        unknown[[sources[name] == "unknown" for name in self.task.names]] = True
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.seg.nrrd"
            write_masks(path, label, self.task, grid, marked={IGNORE: unknown} if unknown.any() else None)
            with self._exclusive():
                self._undecided(case, digest)
                self.datastore.save_label(case, str(path), FINAL, info)
            self.context.wait_for_pacs(case)
            self.study.reviews.undo(case)
        return {"structures": sources, "provenance": made_of["provenance"]}

    def decide(self, case: str, decision: Verdict, digest: str, who: str) -> object:
        """Reject a pseudo label, or send its case to the annotators; returns its provenance. Raises as ``accept``."""
        with self._exclusive():
            entry = self._undecided(case, digest)
            self.study.reviews.record(case, decision, entry.info, who)
        return entry.info.get("provenance")

    def undo(self, case: str) -> State:
        """Undo the last decision about a case; an accepted label goes to the history. Returns the state before.

        Raises:
            Conflict: there is no decision, or a human label was saved since.
        """
        with self._exclusive():
            entry = self.entry(case)
            if entry.state == "accepted":
                self.datastore.remove_label(self._labelled(case)[FINAL], FINAL)
            elif not self.study.reviews.undo(case):
                raise Conflict(f"{case!r} is waiting for review: there is no decision to undo")
        return entry.state

    # ---- parts ----

    def _undecided(self, case: str, digest: str) -> QueueItem:
        """Item of a case that waits for review with this label, and may be used for training."""
        entry = self.entry(case)
        if entry.state != "waiting":
            by = f" by {entry.who}" if entry.who else ""
            raise Conflict(f"{case!r} has been {entry.state}{by} in the meantime; undo that first")
        if digest != self.digest(case):
            raise Conflict(f"the pseudo label of {case!r} has changed in the meantime; review the new one")
        store = self.datastore
        self.study.holdout.extend(store.list_images(), store.get_labeled_images())
        if not self.study.holdout.trainable([case]):
            raise Conflict(f"{case!r} is in the hold-out or excluded; it needs a human label")
        return entry

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Block without concurrent decisions or changes of labels."""
        with self._lock, self.datastore.transaction():
            yield

    def _known(self, case: str) -> None:
        if case not in self.datastore.label_infos(case):
            raise NotFound(f"image {case!r} is not in the study")

    def _labelled(self, case: str) -> dict[str, str]:
        """Label ids by tag."""
        return dict(self.datastore.get_labels_by_image_id(case))

    def _labels(self, case: str) -> dict[str, Mapping[str, Any]]:
        return {tag: self.datastore.get_label_info(label, tag) for tag, label in self._labelled(case).items()}

    def _uri(self, case: str, tag: str) -> str | None:
        label = self._labelled(case).get(tag)
        return str(self.datastore.get_label_uri(label, tag)) if label is not None else None

    def _sha256(self, case: str, tag: str, info: Mapping[str, Any]) -> str:
        if "sha256" in info:
            return str(info["sha256"])
        uri = self._uri(case, tag)
        return sha256_file(Path(uri)) if uri and Path(uri).is_file() else ""

    def _read_masks(self, case: str, tag: str) -> tuple[Masks, int]:
        refined, student = (self._uri(case, name) for name in (tag, PSEUDO_RAW))
        grid = self.shown(case).grid
        found: dict[str, Cropped] = {}
        if refined:
            found = self._cropped(read_rejected(refined, self.task, grid))
            found |= self._cropped(read_masks(refined, self.task, grid))
        own = self._cropped(read_masks(student, self.task, grid)) if student else {}
        masks = Masks(found, own)
        return masks, masks.nbytes

    def _cropped(self, stack: Any) -> dict[str, Cropped]:
        cropped = {name: Cropped.of(mask) for name, mask in zip(self.task.names, stack, strict=True)}
        return {name: mask for name, mask in cropped.items() if mask is not None}
