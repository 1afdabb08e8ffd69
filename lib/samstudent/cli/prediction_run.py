"""Run of ``samstudent predict``: checks, progress, failures, and a table of the structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.markup import escape
from rich.table import Table

from samstudent.cli.app_folder import app_folder_path
from samstudent.cli.findings import console, first_names, print_finding
from samstudent.inference.batch import TABLE, BatchOptions, BatchResult, predict_to_folder
from samstudent.inference.image_list import are_cases, find_images
from samstudent.inference.result_files import ending_of
from samstudent.inference.round_model import RoundModel
from samstudent.rounds.study import Study
from samstudent.sam.cache import EmbeddingCache
from samstudent.server.study_cases import CasesOfStudy
from samstudent.task import Task, load_task
from samstudent.util.places import require_new, require_writable
from samstudent.util.progress_bar import ProgressBars


@dataclass(frozen=True)
class PredictOptions:
    """Options of the command.

    Attributes:
        round_id: round of the student; None: the served one.
        refine: SAM refines the masks.
        file_format: name of the format (``result_files.FORMATS``).
        overwrite: write into a folder that is not empty.
    """

    round_id: str | None = None
    refine: bool = False
    file_format: str = "seg.nrrd"
    overwrite: bool = False


def predict_images(
    arguments: Sequence[str], studies: str, task_name: str, output: Path, options: PredictOptions
) -> bool:
    """Predict images and print a table of the structures.

    Args:
        arguments: files, folders and ids of cases (``image_list.find_images``).
        studies: path of the study folder, or URL of a DICOMweb server.
        task_name: name or file of the task.
        output: folder for the results.
        options: further options.

    Returns:
        False if an image failed.

    Raises:
        UserError: wrong arguments; nothing was predicted.
    """
    task = load_task(task_name)
    ending = ending_of(options.file_format, task)
    require_new(output, options.overwrite)
    study = Study(studies, str(app_folder_path(studies)), task)
    cache = EmbeddingCache(study.embeddings.folder, stores=are_cases(arguments))
    # Before the images are listed: a PACS takes seconds.
    model = RoundModel.load(study, options.round_id, cache=cache)
    found = find_images(arguments, CasesOfStudy(study, studies), task.dimension, task.image.sequences)
    for line in found.remarks:
        print_finding("note", line)
    require_writable(output, "the masks and their table are written")
    with ProgressBars(console) as bars:
        result = predict_to_folder(
            model,
            found.images,
            output,
            BatchOptions(
                ending, options.refine, bars, lambda case, reason: print_finding("failed", f"{case}: {reason}")
            ),
        )
    _print_table(result, task)
    if result.structures and not options.refine:
        console.print("No quality: it is estimated with --refine only.")
    failed = f"; {len(result.failed)} failed: {first_names([*result.failed])}" if result.failed else ""
    console.print(
        f"{len(result.structures)} images by {model.round_id}{' and SAM' if options.refine else ''}: masks and {TABLE}"
        f" in {escape(str(output))}{escape(failed)}",
        soft_wrap=True,
    )
    return not result.failed


def _print_table(result: BatchResult, task: Task) -> None:
    """Print for each structure in how many images it is, and its estimated Dice."""
    if not result.structures:
        return
    has_quality = any(s.quality is not None for structures in result.structures.values() for s in structures)
    table = Table("structure", "images with it", *(["quality: median", "lowest", "in"] if has_quality else []))
    for index, name in enumerate(task.names):
        rows = [(case, structures[index]) for case, structures in result.structures.items()]
        cells = [escape(name), f"{sum(structure.present for _, structure in rows)} of {len(rows)}"]
        if known := sorted((s.quality, case) for case, s in rows if s.quality is not None):
            lowest, where = known[0]
            cells += [f"{median(value for value, _ in known):.2f}", f"{lowest:.2f}", escape(where)]
        table.add_row(*cells)
    console.print(table)
