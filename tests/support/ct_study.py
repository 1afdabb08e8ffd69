"""Real Orthanc with synthetic CT series and their masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from samstudent.imaging.dicom_dx_write import dx_image
from samstudent.task import load_task
from support.film_study import PacsStudy, running_orthanc

CT = "1.2.840.10008.5.1.4.1.1.2"
#: An odd number of slices: of an even one OHIF first shows the plane between the two in the middle. Few: SAM takes more
#: than a second for each.
SHAPE = (5, 48, 48)
SERIES, LABELLED = 5, 4
TASK = """\
name: organs
dimension: 3
structures: [liver, spleen]
image: {intensity: window, low: 0, high: 1400}
student: {network: unet, size: [16, 32, 32], channels: [8, 16]}
training: {steps: 120, batch_size: 2, learning_rate: 0.01, rotate: 5}
pseudo_labels: {threshold: 0.0, policy: fixed}
holdout: {fraction: 0.25}
"""


def draw_series(seed: int) -> tuple[list[Any], NDArray[np.bool_]]:
    """A CT of two organs, dark around: slices of 48 x 48 pixels of 3 mm, 5 mm apart, the lowest first; and the masks
    bool (2, z, y, x): a round liver on the left of the picture, a square spleen on the right and only above."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    up, across = rng.uniform(-3, 3, 2)
    liver = (y - 22 - up) ** 2 + (x - 15 - across) ** 2 < (10 - z) ** 2
    spleen = (abs(y - 26 - across) < 6) & (abs(x - 36 - up) < 5) & (z > 1)
    pixels = 200 + 900 * liver + 500 * spleen + rng.normal(0, 30, SHAPE)
    names = [generate_uid(entropy_srcs=["samstudent", f"ct{seed}", what]) for what in ("series", "study", "frame")]
    images = []
    for index in range(SHAPE[0]):
        image = dx_image(
            pixels[index].astype(np.uint16), f"ct{seed}", 3.0, Modality="CT", SeriesInstanceUID=names[0],
            StudyInstanceUID=names[1], FrameOfReferenceUID=names[2], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[-72, -72, 5.0 * index], SliceThickness=5, InstanceNumber=index + 1,
            StudyDescription="Abdomen", SeriesDescription="Portal venous", BodyPartExamined="ABDOMEN",
        )  # fmt: skip
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CT
        images.append(image)
    return images, np.stack([liver & (z < 4), spleen])


@dataclass
class CtStudy(PacsStudy):
    """CT series; ``studies``: case -> Study Instance UID."""

    studies: dict[str, str]

    def add(self, seed: int) -> str:
        """Create a synthetic series and send it to the PACS; returns its case id."""
        images, masks = draw_series(seed)
        case = str(images[0].SeriesInstanceUID)
        folder = self.files / case
        folder.mkdir()
        for number, image in enumerate(images):
            image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        self.orthanc.store(images)
        self.truth[case], self.studies[case] = masks, str(images[0].StudyInstanceUID)
        return case


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CtStudy]:
    root = tmp_path_factory.mktemp("ct")
    (root / "organs.yaml").write_text(TASK)
    with running_orthanc(root / "orthanc") as orthanc:
        study = CtStudy(orthanc, root, root / "organs.yaml", load_task(root / "organs.yaml"), {}, {})
        for seed in range(SERIES):
            study.add(seed)
        yield study
