"""Export of a study's images and labels in another tool's format."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samstudent import __version__
from samstudent.errors import NotFound, UserError, explain
from samstudent.exchange.coco_export import CocoExport
from samstudent.exchange.experiment_export import ExperimentExport
from samstudent.exchange.export_format import ExportFormat
from samstudent.exchange.exported import write_record
from samstudent.exchange.nnunet_export import NnunetExport, NnunetOptions, with_png
from samstudent.exchange.study_cases import StudyCase
from samstudent.task import Task

FORMATS = ("nnunet", "coco", "experiment")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        format: one of ``FORMATS``.
        channel: name of the channel (nnunet).
        polygons: polygons in place of run lengths (coco).
    """

    format: str = "nnunet"
    channel: str | None = None
    polygons: bool = False


@dataclass
class ExportResult:
    """Outcome of an export.

    Attributes:
        folder: folder of the export.
        kinds: number of cases for each kind of label.
        failed: case -> reason why it was left out.
        remarks: remarks of the format, and the next command.
    """

    folder: Path
    kinds: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def export_cases(
    cases: Sequence[StudyCase],
    task: Task,
    output: Path,
    options: ExportOptions,
    each: Callable[[Sequence[StudyCase]], Iterable[StudyCase]] = iter,
) -> ExportResult:
    """Write cases; one that cannot be read or written is named in the result, and the rest goes on.

    Args:
        cases: cases of a study.
        task: the task.
        output: folder of the export, new or empty; for nnU-Net may be its ``nnUNet_raw``.
        options: format and its options.
        each: passes the cases on, e.g. with a progress bar.

    Raises:
        NotFound: there is no case with a label.
        UserError: the format is unknown, does not have an option or cannot hold the task, or ``output`` is not empty.
    """
    if not any(case.kind != "none" for case in cases):
        raise NotFound(f"task {task.name}: the study has no label to export")
    writer = _writer(cases, task, output, options)
    result = ExportResult(writer.folder)
    kinds = {}
    for case in each(cases):
        try:
            image, label = case.read(task)
            writer.add(case, image, label)
        except (UserError, OSError) as error:
            result.failed[case.id] = explain(error)
        else:
            kinds[case.id] = {"label": case.kind, "split": case.split}
    result.kinds.update(entry["label"] for entry in kinds.values())
    result.remarks = writer.finish()
    record = {
        "samstudent": __version__, "format": options.format, "task": task.name, "structures": task.structures,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "cases": kinds, "left_out": result.failed,
    }  # fmt: skip
    write_record(writer.folder, record)
    return result


def _writer(cases: Sequence[StudyCase], task: Task, output: Path, options: ExportOptions) -> ExportFormat:
    for name, value, format in (("channel", options.channel, "nnunet"), ("polygons", options.polygons, "coco")):
        if value and options.format != format:
            raise UserError(f"--{name}: format {options.format} does not have this option; {format} has it")
    if options.format == "nnunet":
        return NnunetExport(output, task, NnunetOptions(options.channel, with_png(list(cases), task)))
    if options.format not in FORMATS:
        raise UserError(f"--format {options.format}: expected {', '.join(FORMATS)}")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output}: is not empty; choose another --output")
    return CocoExport(output, task, options.polygons) if options.format == "coco" else ExperimentExport(output, task)
