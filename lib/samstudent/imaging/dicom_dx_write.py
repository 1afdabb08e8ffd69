"""Writer of synthetic radiographs: DX images from arrays, one a series, with invented patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

#: Digital X-Ray Image Storage - For Presentation.
DX = UID("1.2.840.10008.5.1.4.1.1.1.1")


def dx_image(pixels: NDArray[np.uint16], name: str, spacing: float = 0.3, **changes: Any) -> FileDataset:
    """A radiograph, without a position in space.

    Args:
        pixels: uint16 (y, x); bone is bright.
        name: name of the patient; all UIDs are derived from it.
        spacing: distance between pixels, mm.
        changes: further attributes by keyword.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DX
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["samstudent", name, "image"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.SOPClassUID, image.SOPInstanceUID = DX, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID = generate_uid(entropy_srcs=["samstudent", name, "study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=["samstudent", name, "series"])
    image.Modality, image.PresentationIntentType = "DX", "FOR PRESENTATION"
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = f"Phantom^{name}", name, "", "O"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.ContentTime = "120000"
    image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "", ""
    image.StudyDescription, image.SeriesDescription, image.BodyPartExamined = "Wrist", "Wrist p.a.", "WRIST"
    image.SeriesNumber, image.InstanceNumber, image.Manufacturer = 1, 1, "samstudent"
    image.PatientOrientation, image.BurnedInAnnotation, image.LossyImageCompression = ["L", "F"], "NO", "00"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelSpacing = image.ImagerPixelSpacing = [spacing, spacing]
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "US"
    image.PresentationLUTShape, image.PixelIntensityRelationship = "IDENTITY", "LOG"
    image.PixelIntensityRelationshipSign = 1
    low, high = (float(v) for v in np.percentile(pixels, [0.5, 99.5]))
    image.WindowCenter, image.WindowWidth = round((low + high) / 2), round(max(high - low, 2))
    image.PixelData = np.ascontiguousarray(pixels).tobytes()
    for keyword, value in changes.items():
        setattr(image, keyword, value)
    return image


def save_film(image: FileDataset, folder: Path) -> Path:
    """``<folder>/<Series Instance UID>.dcm``: the stem is the case id of the server."""
    path = folder / f"{image.SeriesInstanceUID}.dcm"
    image.save_as(path, enforce_file_format=True)
    return path
