"""Files of equal content in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from samstudent.imaging.file_names import printable
from samstudent.imaging.folder import stamp_of
from samstudent.imaging.remarks import Remark
from samstudent.util.files import sha256_file

#: Bytes at a file's beginning that are compared first.
_BLOCK = 1 << 16


def duplicates(files: Mapping[str, Path], most_alike: int | None = None) -> list[Remark]:
    """A remark for every file with the same content as an earlier one.

    Only files of equal size are compared, first by their beginning.

    Args:
        files: case id -> file.
        most_alike: larger groups of files of equal size (uncompressed images) are not compared; None: no limit.
    """
    by_size: dict[int, list[Path]] = {}
    for path in files.values():
        if (stamp := stamp_of(path)) is not None and stamp[1] > 0:
            by_size.setdefault(stamp[1], []).append(path)
    remarks = []
    for paths in by_size.values():
        if len(paths) < 2 or (most_alike is not None and len(paths) > most_alike):
            continue
        for group in _groups(paths, _beginning):
            for same in _groups(group, _digest) if len(group) > 1 else ():
                remarks += [Remark(path.name, f"the same content as {printable(same[0].name)}") for path in same[1:]]
    return sorted(remarks, key=lambda remark: remark.name)


def _groups(paths: Iterable[Path], key: Any) -> list[list[Path]]:
    groups: dict[object, list[Path]] = {}
    for path in paths:
        try:
            groups.setdefault(key(path, stamp_of(path)), []).append(path)
        except OSError:
            continue
    return list(groups.values())


@lru_cache(maxsize=1 << 16)
def _beginning(path: Path, stamp: object) -> bytes:
    """Digest of the first 64 KiB; ``stamp`` so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_BLOCK)).digest()


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, stamp: object) -> str:
    return sha256_file(path)
