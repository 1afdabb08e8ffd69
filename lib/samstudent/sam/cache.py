"""Cache of SAM embeddings on disk.

One safetensors file per entry, named by a digest of everything that it depends on. There is no index that could
disagree with the files, and no lock: files are written atomically (``util.files.atomic_path``), and any process may
remove any of them at any time.
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

#: Age in seconds from which a temporary file was left by a process that was killed.
_ABANDONED = 3600.0


def cached_embedding(backend: SamBackend, cache: EmbeddingCache | None, image: NDArray[np.uint8]) -> Embedding:
    """Embedding of an image, uint8 (y, x, 3), through a cache; without one it is computed."""
    return backend.embed(image) if cache is None else cache.embed(backend, image)


class _EntryLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class EmbeddingCache:
    """Embeddings in a folder; the least recently used are removed first.

    Features are stored as float16 (half the size, no visible change of a mask). ``embed`` returns them rounded at the
    first call, too: a result must not depend on the content of the cache.

    Args:
        folder: created when missing; only for this cache.
        max_bytes: upper bound of the folder's size. An entry of SAM or LiteMedSAM takes 2 MB.
        stores: False: new embeddings are rounded but not stored, for images that are used only once, which must not
            displace those of a study.
    """

    def __init__(self, folder: Path, max_bytes: int = 4 << 30, *, stores: bool = True) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.stores = stores
        #: Entry -> lock of the threads that compute it or wait for it; removed with the last of them.
        self._pending: WeakValueDictionary[Path, _EntryLock] = WeakValueDictionary()
        self._pending_lock = threading.Lock()

    def embed(self, backend: SamBackend, image: NDArray[np.uint8]) -> Embedding:
        """Embedding of an image, from disk or computed and stored.

        Args:
            backend: the SAM.
            image: uint8 (y, x, 3).
        """
        path = self._path(backend, image)
        embedding = self._read(path)
        if embedding is None:
            # Concurrent threads must not compute one image twice.
            with self._pending_lock:
                entry = self._pending.setdefault(path, _EntryLock())
            with entry.lock:
                embedding = self._read(path) or self._write(path, backend.embed(image))
        return embedding

    def get(self, backend: SamBackend, image: NDArray[np.uint8]) -> Embedding | None:
        """Embedding of an image if it is stored, else None."""
        return self._read(self._path(backend, image))

    def pooled(self, backend: SamBackend, image: NDArray[np.uint8]) -> Float | None:
        """Mean feature vector float32 (256,) of an image whose embedding is stored, else None; without the padding."""
        embedding = self.get(backend, image)
        return None if embedding is None else embedding.pooled()

    def _path(self, backend: SamBackend, image: NDArray[np.uint8]) -> Path:
        key = hashlib.sha256()
        for part in (backend.name, backend.embedding_digest, backend.preprocessing, str(image.dtype), str(image.shape)):
            key.update(part.encode() + b"\0")
        key.update(np.ascontiguousarray(image).data)
        return self.folder / f"{key.hexdigest()}.safetensors"

    def _read(self, path: Path) -> Embedding | None:
        """An entry, or None; a damaged one is removed."""
        try:
            with safe_open(path, framework="np") as file:
                meta, features = file.metadata() or {}, file.get_tensor("features")
            if meta["sha256"] != hashlib.sha256(features.tobytes()).hexdigest():
                raise ValueError("the content does not match its digest")
            embedding = Embedding(
                features.astype(np.float32),
                image_size=(int(meta["image_y"]), int(meta["image_x"])),
                input_size=(int(meta["input_y"]), int(meta["input_x"])),
                side=int(meta["side"]),
            )
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            logger.warning("%s: damaged, will be computed again: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # may have been removed by another process
            os.utime(path)
        return embedding

    def _write(self, path: Path, embedding: Embedding) -> Embedding:
        """Store an entry, unless this cache does not; returns it as a later read does."""
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
        if self.stores:
            try:
                atomic_write(path, save({"features": features}, metadata=meta))
                self._shrink()
            except OSError as error:
                # Without the entry SAM is slower, not wrong.
                logger.warning("%s: the embedding could not be stored: %s", path, error)
        return Embedding(features.astype(np.float32), embedding.image_size, embedding.input_size, embedding.side)

    def _shrink(self) -> None:
        """Remove abandoned temporary files, then the least recently used entries until the folder fits its bound."""
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
