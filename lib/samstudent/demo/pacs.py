"""Study of the demo in a PACS instead of a folder."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from dicomweb_client import DICOMwebClient
from PIL import Image

from samstudent.demo import phantom
from samstudent.demo.study import DemoStudy
from samstudent.imaging.dicom_dx_write import dx_image, save_film
from samstudent.imaging.file_names import LABELS
from samstudent.imaging.folder import list_folder
from samstudent.server.pacs.orthanc import Orthanc
from samstudent.server.pacs.state_folder import pacs_folder
from samstudent.util.address import slug_of
from samstudent.util.progress import Report, no_report

#: Numbers of cases. Fewer than in the demo on a folder: this demo shows the exchange over DICOMweb, not the quality.
PACS_CASES, PACS_HOLDOUT = 12, 5


def make_pacs_study(output: Path, orthanc: Orthanc, cases: int, seed: int, report: Report = no_report) -> DemoStudy:
    """Draw radiographs, store them in the PACS as DX images, and write the server's ``split.csv``.

    Args:
        output: folder of the demo; its subfolder ``data`` becomes the data folder of the server.
        orthanc: running PACS.
        cases: number of training cases.
        seed: random seed of the radiographs.
        report: receiver of the progress.
    """
    source, films = output / "phantoms", output / "films"
    phantom.make_study(source, cases + PACS_HOLDOUT, seed, holdout=PACS_HOLDOUT, report=report)
    films.mkdir()
    labels = list_folder(source / "labels", LABELS).files
    with (source / "split.csv").open(newline="") as file:
        splits = {row["id"]: row["split"] for row in csv.DictReader(file)}
    truth, by_split = {}, dict[str, list[str]](train=[], val=[])
    for name, path in sorted(list_folder(source / "images").files.items()):
        pixels = np.asarray(Image.open(path)).astype(np.uint16)
        image = dx_image(pixels, f"{name}-{seed}", phantom.FIELD[0] / pixels.shape[0])
        case = save_film(image, films).stem
        orthanc.store([image])
        truth[case] = labels[name]
        by_split[splits[name]].append(case)
    root = pacs_folder(orthanc.url, output / "data") / "model" / slug_of(orthanc.url)
    root.mkdir(parents=True)
    with (root / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split"])
        writer.writerows([case, split] for split, found in by_split.items() for case in found)
    return DemoStudy(films, truth, by_split["train"], by_split["val"], bits=False)


def describe_series(orthanc: Orthanc) -> Iterator[str]:
    """Numbers of series in the PACS, one line per modality and description."""
    series = DICOMwebClient(orthanc.url).search_for_series(fields=["SeriesDescription"])
    kinds = Counter((item["00080060"]["Value"][0], *(item.get("0008103E", {}).get("Value") or [""])) for item in series)
    for (modality, description), count in sorted(kinds.items()):
        yield f"in the PACS: {count} series {modality} {description!r}"
