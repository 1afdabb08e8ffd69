"""Training cases of a round's student, on which it must not be measured.

They are identified by the content of the image file, because files are renamed and may exist twice; and by their id,
because an image may be exported again under it.

Training cases are those whose human or pseudo label trained the student, not those of its teachers: a teacher affects
the student only by pseudo labels of other images, so the student is not overfitted to the teacher's images. If these
counted, a hold-out case on which any earlier student trained would be useless for all later ones.
"""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from samstudent.imaging.dicom_heads import image_files
from samstudent.imaging.folder import stamp_of
from samstudent.imaging.image_paths import ImagePath
from samstudent.rounds.ledger import Ledger
from samstudent.util.database import connection, make_tables

_SCHEMA = "CREATE TABLE IF NOT EXISTS contents (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL);"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Trained:
    """Training cases of a student.

    Attributes:
        ids: of all of them.
        images: digest of an image's content -> id of its case; not known of rounds of earlier versions.
    """

    ids: frozenset[str] = frozenset()
    images: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: Trained) -> Trained:
        return Trained(self.ids | other.ids, {**self.images, **other.images})

    def case_of(self, id: str, digest: str | None) -> str | None:
        """Id under which the student trained on a case; None: it did not."""
        return self.images.get(digest or "") or (id if id in self.ids else None)

    def as_json(self) -> dict[str, Any]:
        return {"ids": sorted(self.ids), "images": dict(sorted(self.images.items()))}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Trained:
        return cls(frozenset(content["ids"]), dict(content["images"]))


def trained_of(ledger: Ledger, round_id: str) -> Trained:
    """Training cases in the record of a round; of rounds of earlier versions only ids are known.

    Raises:
        NotFound, UserError: there is no such round, or its record cannot be read.
    """
    record, inputs = ledger.get(round_id), ledger.read_json(round_id, "inputs") or {}
    images = {case: digest for case, digest in images_of(inputs).items() if case not in record.unreadable}
    ids = {*inputs.get("cases", {}), *record.labels_used} - set(record.unreadable)
    found = Trained(frozenset(ids), {digest: case for case, digest in images.items()})
    if inherited := inputs.get("inherited"):
        return found | Trained.from_json(inherited)
    # Earlier versions recorded the file of the initial weights, not its training cases.
    start = None if "inherited" in inputs else inputs.get("start")
    for other in ledger.rounds():
        if start is not None and other.id < round_id and other.model_digest == start:
            return found | trained_of(ledger, other.id)
    return found


def images_of(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Case id -> digest of its image, from a round's ``inputs.json``."""
    return {case: entry["image"] for case, entry in inputs.get("cases", {}).items() if entry.get("image")}


def under_ids(scores: Mapping[str, Any], theirs: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, Any]:
    """Scores of another round by the current ids of the same images.

    Args:
        scores: by case id of that round.
        theirs, ours: case id -> digest of its image, in that round and now. Without a digest the id counts.
    """
    now = {digest: case for case, digest in ours.items()}
    found = {}
    for case, row in scores.items():
        if case not in theirs:
            found[case] = row
        elif (id := now.get(theirs[case]) or (case if case not in ours else None)) is not None:
            found[id] = row
    return found


class ImageContents:
    """Digests of the content of images; each file is hashed once for its path, size and modification time."""

    def __init__(self, path: Path) -> None:
        """Args: path: SQLite file, created when missing.

        Raises:
            UserError: the file is no SQLite database.
        """
        self.path = path
        make_tables(path, _SCHEMA, "rename it: images are hashed again")

    def of(self, image: str | Path) -> str | None:
        """SHA-256, hex, of the content of an image file (``content_of``); None where it cannot be read."""
        path = Path(image)
        try:
            stamp = "".join(f"{file.name} {(s := file.stat()).st_size} {s.st_mtime_ns}\n" for file in image_files(path))
            stamp = hashlib.sha256(stamp.encode()).hexdigest()
            known = self._known(path)
            if known is None or known[0] != stamp:
                known = stamp, content_of(path)
                self._store(path, *known)
        except OSError:
            return None
        return known[1]

    def _known(self, path: Path) -> tuple[str, str] | None:
        with suppress(sqlite3.Error), connection(self.path) as database:
            rows: Any = database.execute("SELECT stamp, digest FROM contents WHERE path = ?", (str(path),)).fetchone()
            return rows and (str(rows[0]), str(rows[1]))
        return None

    def _store(self, path: Path, stamp: str, digest: str) -> None:
        # Without the entry the file is hashed again, no more.
        with suppress(sqlite3.Error), connection(self.path) as database:
            database.execute("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", (str(path), stamp, digest))


def content_of(path: Path) -> str:
    """SHA-256, hex, of a file's bytes; of a gzip file of its uncompressed content, since gzip stores name and time.

    Of a folder or a DICOM series it is that of its files, whatever their names; of a frame that of its file and number;
    of several channels that of their files in the order of the channels.

    Raises:
        OSError: cannot be read.
    """
    image = ImagePath.of(path)
    if image.frame is not None:
        clip = _content_of_clip(image.place, stamp_of(image.place))
        return hashlib.sha256(f"{clip} frame {image.frame}".encode()).hexdigest()
    if image.channels:
        return hashlib.sha256("\n".join(map(content_of, image.channels)).encode()).hexdigest()
    if image.count is not None:
        return content_of(image.place)
    if image.place.is_dir():
        return hashlib.sha256("\n".join(sorted(map(content_of, image_files(path)))).encode()).hexdigest()
    if path.suffix.lower() == ".gz":
        with suppress(EOFError, zlib.error, gzip.BadGzipFile), gzip.open(path) as file:
            return _digest(iter(lambda: file.read(_BLOCK), b""))
    with path.open("rb") as plain:
        return _digest(iter(lambda: plain.read(_BLOCK), b""))


@lru_cache(maxsize=64)
def _content_of_clip(path: Path, stamp: object) -> str:
    """Digest of a clip, which is not hashed again for each of its frames; ``stamp``: so that a changed one is."""
    return content_of(path)


def _digest(blocks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
