"""``datastore_v2.json``, the host's list of images and labels: always whole, and with a good copy beside it."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import time
from pathlib import Path

from monailabel.datastore.local import LocalDatastoreModel

from samstudent.imaging.folder import copy_of
from samstudent.util.files import atomic_write

logger = logging.getLogger(__name__)


class DatastoreFile:
    """Reads and writes the file. Not locked: the datastore holds its lock around a change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.copy = copy_of(path)
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """True when the file is not the one that was last read or written here. Costs one stat."""
        return self._stat() != self._seen

    def read(self) -> LocalDatastoreModel | None:
        """What the file says; None if there is none.

        Raises:
            ValueError: it is torn, or is no datastore.
        """
        seen = self._stat()
        if seen is None:
            self._seen = None
            return None
        model = _parse(self.path.read_bytes())
        self._seen = seen  # taken before reading: written meanwhile, it counts as changed
        return model

    def lost(self) -> LocalDatastoreModel | None:
        """What the copy says where the file itself is missing; None where it is not, or there is no good copy."""
        if self._stat() is not None:
            return None
        with contextlib.suppress(OSError, ValueError):
            model = _parse(self.copy.read_bytes())
            logger.warning("%s is missing; its copy %s is used instead", self.path, self.copy.name)
            return model
        return None

    def write(self, model: LocalDatastoreModel) -> None:
        """Replace the file, then its copy, each in one step. The file counts: its copy may stay an older one."""
        content = model.model_dump_json(exclude={"base_path"}, fallback=str)
        atomic_write(self.path, content)
        self._seen = self._stat()
        try:
            atomic_write(self.copy, content)
        except OSError as error:
            logger.error("the copy %s could not be written: %s", self.copy, error)

    def forget(self) -> None:
        """Make the file count as changed, so that it is read again."""
        self._seen = (-1, -1, -1)

    def recover(self) -> LocalDatastoreModel | None:
        """Set an unreadable file aside, keeping it, and give the last good copy; None where that is unreadable too."""
        aside = self.path.with_name(f"{self.path.stem}.broken-{time.strftime('%Y%m%dT%H%M%S')}.json")
        os.replace(self.path, aside)
        model = None
        with contextlib.suppress(OSError, ValueError):
            model = _parse(self.copy.read_bytes())
        source = "its last good copy" if model else "the files in the study folder, without label info"
        logger.error("%s was unreadable; kept as %s, made again from %s", self.path, aside.name, source)
        return model

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _parse(content: bytes) -> LocalDatastoreModel:
    # Every parsed dict brings the next garbage collection nearer: 10,000 labelled images take 15 s with it, 2 without.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return LocalDatastoreModel.model_validate(json.loads(content))
    finally:
        if collecting:
            gc.enable()
