"""Prediction of many images into a folder: masks, a table of their quality, and a record of the models."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samstudent import __version__
from samstudent.errors import UserError, explain
from samstudent.imaging.case import read_image
from samstudent.inference.image_list import Fetch
from samstudent.inference.prediction import PredictedStructure, Prediction
from samstudent.inference.round_model import RoundModel
from samstudent.util.files import atomic_write
from samstudent.util.progress import Report, StepReport, no_report

logger = logging.getLogger(__name__)

TABLE = "quality.csv"
RECORD = "prediction.json"
_COLUMNS = (
    "case", "structure", "present", "pixels", "quality", "lower_bound", "estimated_by", "predicted_iou", "agreement",
)  # fmt: skip


@dataclass(frozen=True)
class BatchOptions:
    """Options of ``predict_to_folder``.

    Attributes:
        ending: of the files, e.g. ".seg.nrrd" (``result_files.ending_of``).
        refine: see ``RoundModel.predict``.
        report: called with the progress.
        on_failure: called with the id and the reason of each image that failed.
    """

    ending: str = ".seg.nrrd"
    refine: bool = False
    report: Report = no_report
    on_failure: Callable[[str, str], None] = lambda case, reason: None


@dataclass
class BatchResult:
    """Result of ``predict_to_folder``.

    Attributes:
        structures: case id -> structures of its prediction.
        failed: case id -> reason.
    """

    structures: dict[str, Sequence[PredictedStructure]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def predict_to_folder(
    model: RoundModel, images: Mapping[str, Fetch], output: Path, options: BatchOptions
) -> BatchResult:
    """Predict images one after the other. An image that fails does not stop the others.

    Args:
        model: the loaded model.
        images: id -> function that returns the path.
        output: folder for ``<id><ending>``, ``quality.csv`` (a row for each structure, written after each image) and
            ``prediction.json`` (versions of the models, and failures); created if missing.
        options: further options.

    Raises:
        OSError: the table cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    result, progress = BatchResult(), StepReport(options.report, "predicting")
    progress(0, len(images))
    with (output / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for number, (case, fetch) in enumerate(images.items(), 1):
            try:
                prediction = _predict(model, fetch, options.refine)
                prediction.save(output / f"{case}{options.ending}")
            except Exception as error:  # any error of a PACS, a disk or a decoder
                result.failed[case] = reason_of(error)
                options.on_failure(case, result.failed[case])
            else:
                result.structures[case] = prediction.structures
                table.writerows(_row(case, structure) for structure in prediction.structures)
                file.flush()
            progress(number, len(images), message=case)
    atomic_write(output / RECORD, json.dumps(_record(model, options, result), indent=1, ensure_ascii=False) + "\n")
    return result


def _predict(model: RoundModel, fetch: Fetch, refine: bool) -> Prediction:
    return model.predict(read_image(fetch(), model.study.task.dimension), refine=refine)


def reason_of(error: Exception) -> str:
    """Reason of a failed image in one line; an unexpected error is logged with its traceback."""
    if isinstance(error, (UserError, OSError)):
        return explain(error)
    logger.warning("unexpected error of an image", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _row(case: str, found: PredictedStructure) -> list[Any]:
    numbers = [found.quality, found.lower_bound, found.predicted_iou, found.agreement]
    quality, lower, iou, agreement = ("" if value is None else round(value, 4) for value in numbers)
    return [
        case, found.name, found.present, found.pixels, quality, lower, found.estimated_by or "", iou, agreement,
    ]  # fmt: skip


def _record(model: RoundModel, options: BatchOptions, result: BatchResult) -> dict[str, Any]:
    return {
        "samstudent": __version__,
        "task": model.study.task.name,
        "structures": dict(model.study.task.structures),
        "round": model.round_id,
        "model": "student+sam" if options.refine else "student",
        "student": model.student.version,
        "sam": dict(model.refiner.facts) if options.refine else None,
        "predicted": list(result.structures),
        "failed": result.failed,
    }
