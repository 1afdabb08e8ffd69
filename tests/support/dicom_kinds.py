"""DICOM files of kinds other than slices."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom import uid

from support.dicom_files import save


def of_kind(path: Path, kind: str) -> Path:
    data = pydicom.dcmread(save(path))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    if kind != uid.SegmentationStorage:
        del data.PixelData, data.Rows, data.Columns
    data.save_as(path)
    return path
