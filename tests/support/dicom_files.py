"""DICOM slices and series that tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"


SERIES = generate_uid()


PLANE = (np.arange(12).reshape(3, 4) * 100).astype(np.uint16)


def save(path: Path, pixels: NDArray[Any] = PLANE, **fields: Any) -> Path:
    """A CT slice of uint16 pixels (y, x), or frames (n, y, x); fields as pydicom keywords."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "CT", SERIES, SERIES
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelSpacing, data.ImageOrientationPatient = [0.5, 0.25], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, 0]
    for keyword, value in fields.items():
        setattr(data, keyword, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def save_series(folder: Path, heights: list[float], lateral: float = 0.0, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for i, height in enumerate(heights):
        position = [0, lateral * height, height]
        save(folder / f"{i}.dcm", PLANE + i, ImagePositionPatient=position, InstanceNumber=i + 1, **fields)
    return folder
