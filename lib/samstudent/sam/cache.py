"""Embeddings on disk: the slow half of SAM, computed once for each image.

One safetensors file per entry, named by what it depends on, so there is no index that could disagree with the files,
and no lock: files appear whole (``util.files.atomic_path``) and any process may remove any of them at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from samstudent.sam.embedding import Embedding, Float
from samstudent.sam.model import SamBackend
from samstudent.util.files import atomic_write

logger = logging.getLogger(__name__)

#: A temporary file this old (seconds) was left by a process that died.
_ABANDONED = 3600.0


class _EntryLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class EmbeddingCache:
    """Keeps embeddings in a folder, the least recently used out first.

    Features are stored as float16 (half the size, no visible change of a mask), and ``embed`` returns them rounded at
    the first call, too: a result must not depend on what the cache held.

    Args:
        folder: made when missing; nothing else may live in it.
        max_bytes: upper bound of the folder's size. An entry of SAM or LiteMedSAM takes 2 MB.
    """

    def __init__(self, folder: Path, max_bytes: int = 4 << 30) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        #: Entry -> lock of the threads that compute or wait for it; dropped with the last of them.
        self._pending: WeakValueDictionary[Path, _EntryLock] = WeakValueDictionary()
        self._pending_lock = threading.Lock()

    def embed(self, backend: SamBackend, image: NDArray[np.uint8]) -> Embedding:
        """The image's embedding, from disk or computed and kept.

        Args:
            backend: that it is for.
            image: uint8 (y, x, 3).
        """
        path = self._path(backend, image)
        embedding = self._read(path)
        if embedding is None:
            # Threads that ask for one image at once must not compute it twice.
            with self._pending_lock:
                entry = self._pending.setdefault(path, _EntryLock())
            with entry.lock:
                embedding = self._read(path) or self._write(path, backend.embed(image))
        return embedding

    def get(self, backend: SamBackend, image: NDArray[np.uint8]) -> Embedding | None:
        """The image's embedding if it is kept, else None."""
        return self._read(self._path(backend, image))

    def pooled(self, backend: SamBackend, image: NDArray[np.uint8]) -> Float | None:
        """The mean feature vector float32 (256,) of an image that is kept, else None. Padding is left out."""
        embedding = self.get(backend, image)
        return None if embedding is None else embedding.pooled()

    def _path(self, backend: SamBackend, image: NDArray[np.uint8]) -> Path:
        key = hashlib.sha256()
        for part in (backend.name, backend.embedding_digest, backend.preprocessing, str(image.dtype), str(image.shape)):
            key.update(part.encode() + b"\0")
        key.update(np.ascontiguousarray(image).data)
        return self.folder / f"{key.hexdigest()}.safetensors"

    def _read(self, path: Path) -> Embedding | None:
        """An entry, or None; one that is broken is removed."""
        try:
            with safe_open(path, framework="np") as file:
                meta, features = file.metadata() or {}, file.get_tensor("features")
            if meta["sha256"] != hashlib.sha256(features.tobytes()).hexdigest():
                raise ValueError("its content does not match its digest")
            embedding = Embedding(
                features.astype(np.float32),
                image_size=(int(meta["image_y"]), int(meta["image_x"])),
                input_size=(int(meta["input_y"]), int(meta["input_x"])),
                side=int(meta["side"]),
            )
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            logger.warning("%s is broken and will be made again: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # another process may have removed it meanwhile
            os.utime(path)
        return embedding

    def _write(self, path: Path, embedding: Embedding) -> Embedding:
        """Keep an entry; returns it as a later read will."""
        limit = np.finfo(np.float16).max
        features = np.clip(embedding.features, -limit, limit).astype(np.float16, order="C")
        meta = {
            "sha256": hashlib.sha256(features.tobytes()).hexdigest(),
            "image_y": str(embedding.image_size[0]),
            "image_x": str(embedding.image_size[1]),
            "input_y": str(embedding.input_size[0]),
            "input_x": str(embedding.input_size[1]),
            "side": str(embedding.side),
        }
        try:
            atomic_write(path, save({"features": features}, metadata=meta))
            self._shrink()
        except OSError as error:
            # A full disk makes SAM slower, not wrong.
            logger.warning("%s: the embedding could not be stored: %s", path, error)
        return Embedding(features.astype(np.float32), embedding.image_size, embedding.input_size, embedding.side)

    def _shrink(self) -> None:
        """Remove what dead processes left, then the least recently used entries until the folder fits its bound."""
        entries = []
        for file in self.folder.iterdir():
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            if file.name.startswith(".tmp-"):
                if time.time() - status.st_mtime > _ABANDONED:
                    file.unlink(missing_ok=True)
            elif file.suffix == ".safetensors":
                entries.append((status.st_mtime_ns, status.st_size, file))
        excess = sum(size for _, size, _ in entries) - self.max_bytes
        for _, size, file in sorted(entries):
            if excess <= 0:
                break
            file.unlink(missing_ok=True)
            excess -= size
