"""Multi-frame DICOM files that tests write: enhanced CT and MR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)


def item(**fields: Any) -> Dataset:
    found = Dataset()
    for keyword, value in fields.items():
        setattr(found, keyword, value)
    return found


def save_enhanced(
    path: Path,
    frames: NDArray[np.uint16],
    positions: Sequence[Sequence[float]],
    *,
    ct: bool = False,
    per_frame: Sequence[dict[str, Dataset]] = (),
    packed: bool = False,
    **shared: Dataset,
) -> Path:
    """An enhanced image of frames (n, y, x), 0.5 mm between rows and 0.25 mm between columns.

    Args:
        path: the file.
        frames: stored values.
        positions: ImagePositionPatient of each frame.
        ct: enhanced CT with the rescale 2 x - 1024 per frame n of n more; else MR.
        per_frame: further functional groups of each frame, by keyword.
        packed: RLE, a fragment for each frame.
        shared: further shared functional groups, by keyword.
    """
    kind = EnhancedCTImageStorage if ct else EnhancedMRImageStorage
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesNumber, data.ImageType = (
        "CT" if ct else "MR",
        5,
        ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    )
    data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    groups = {
        "PixelMeasuresSequence": item(PixelSpacing=[0.5, 0.25], SliceThickness=3),
        "PlaneOrientationSequence": item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        **shared,
    }
    data.SharedFunctionalGroupsSequence = [item(**{keyword: [group] for keyword, group in groups.items()})]
    data.PerFrameFunctionalGroupsSequence = []
    for index, position in enumerate(positions):
        groups = {"PlanePositionSequence": item(ImagePositionPatient=list(position))}
        if ct:
            transform = item(RescaleSlope=2, RescaleIntercept=-1024 + index, RescaleType="HU")
            groups["PixelValueTransformationSequence"] = transform
        groups |= per_frame[index] if per_frame else {}
        data.PerFrameFunctionalGroupsSequence.append(item(**{keyword: [group] for keyword, group in groups.items()}))
    data.PixelData = frames.tobytes()
    if packed:
        data.compress(RLELossless)
    data.save_as(path, enforce_file_format=True)
    return path
