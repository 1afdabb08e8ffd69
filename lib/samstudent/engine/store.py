"""Content-keyed store: files named by a digest of everything their content depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samstudent.util.files import atomic_write


def content_key(*content: Any) -> str:
    """Digest of JSON values, 16 hex digits; the order of a mapping's keys does not matter.

    Raises:
        TypeError: not a JSON value.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ContentStore:
    """Results of one kind in a folder, one file each. Files never change: another content has another key.

    Attributes:
        folder: folder of the files; created with the first one.
        suffix: suffix of their names, e.g. ``.safetensors``.
    """

    folder: Path
    suffix: str

    def path(self, key: str) -> Path:
        """File of a key, existing or not."""
        return self.folder / f"{key}{self.suffix}"

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.path(key).is_file()

    def write(self, key: str, content: bytes | str) -> Path:
        """Write a result in one step and return its path."""
        path = self.path(key)
        atomic_write(path, content)
        return path
