"""Work of ``samstudent import`` and ``samstudent export data``, and what they print."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import typer
from rich.progress import track

from samstudent.cli.app_folder import app_folder, app_folder_path
from samstudent.cli.findings import console, print_finding
from samstudent.errors import NotFound, Unavailable
from samstudent.exchange.import_report import ImportReport
from samstudent.exchange.source import Source
from samstudent.exchange.study_cases import study_cases
from samstudent.exchange.study_export import ExportOptions, export_cases
from samstudent.exchange.study_import import ImportOptions, StudyImport
from samstudent.exchange.value_table import structure_name
from samstudent.imaging.case import read_image
from samstudent.rounds.study import Study
from samstudent.server.datastore.study_folder import StudyFolderDatastore
from samstudent.server.open_datastore import open_datastore
from samstudent.task import load_task
from samstudent.util.address import is_pacs
from samstudent.util.files import atomic_write
from samstudent.util.places import require_writable

#: Largest number of reasons of one kind that are printed; the report has all.
_PRINTED = 10
T = TypeVar("T")


def run_import(source: Source, studies: str, task_name: str, options: ImportOptions, report: Path | None) -> bool:
    """Import a source into a study, print what was taken, and write the report.

    Args:
        source: the source.
        studies: study folder, which is created if its parent exists, or URL of a PACS.
        task_name: name of the task, or path of its file.
        options: options of the import.
        report: file of the report; None: in the study's state, ``imports/``.

    Returns:
        Whether all cases were taken.
    """
    load_task(task_name)
    if not is_pacs(studies) and not os.path.lexists(studies):
        if not Path(studies).parent.is_dir():
            raise NotFound(f"--studies {studies}: no such folder, and none in which it could be made: make it first")
        Path(studies).mkdir()
        print_finding("note ", f"{studies}: new study folder")
    with _opened(studies, task_name) as (study, datastore):
        result = StudyImport(study, datastore, options).run(source, _progress("importing"))
        _send(datastore)
        _print_report(result, source)
        now = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
        path = report or study.folder / "imports" / f"{now}.json"
    content = {
        "format": source.format,
        "source": [str(file) for file in source.files],
        "studies": studies,
        "task": study.task.name,
        "time": now,
        "user": options.user,
        "replace": options.replace,
        **result.as_json(),
    }
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)
    return result.is_complete


def run_export(studies: str, task_name: str, output: Path, options: ExportOptions, *, pseudo: bool) -> bool:
    """Export a study and print what was written.

    Args:
        studies: study folder, or URL of a PACS.
        task_name: name of the task, or path of its file.
        output: folder of the export.
        options: format and its options.
        pseudo: with pseudo labels.

    Returns:
        Whether all cases were written.
    """
    load_task(task_name)
    app_folder_path(studies)  # the study is there
    require_writable(output, "the exported data are written")
    with _opened(studies, task_name) as (study, datastore):
        cases = study_cases(study, datastore, pseudo=pseudo)
        flagged = sorted(study.flags.all().keys() & set(datastore.list_images()))
        result = export_cases(cases, study.task, output, options, _progress("exporting"))
    kinds = {"human": "human labels", "pseudo_label": "pseudo labels", "none": "images without a label"}
    counts = ", ".join(f"{result.kinds[kind]} {text}" for kind, text in kinds.items() if result.kinds[kind])
    print_finding("ok   ", f"{counts or 'nothing'} in {result.folder}", "green")
    _print_reasons("left out", [f"{case}: flagged as unusable" for case in flagged])
    _print_reasons("left out", [f"{case}: {reason}" for case, reason in result.failed.items()], "red")
    for remark in result.remarks:
        print_finding("note ", remark)
    return not result.failed


def print_names(source: Source) -> None:
    """Print the names in a source, and a task file with them as a start."""
    names = source.all_names()
    labelled = [case for case in source.cases if case.label is not None]
    print_finding("ok   ", f"{source.format}: {len(source.cases)} cases, {len(labelled)} with a label", "green")
    for name, count in sorted(names.items()):
        console.print(f"{name}: in {count} labels", markup=False, highlight=False, soft_wrap=True)
    _print_reasons("not taken", [f"{case.id}: {case.problem}" for case in source.cases if case.problem], "red")
    content = {
        "name": re.sub(r"[^A-Za-z0-9_-]+", "_", source.files[0].resolve().stem).strip("_-") or "task",
        "dimension": _dimension(source),
        "structures": [structure_name(name) or f"structure {number}" for number, name in enumerate(names, 1)],
        "overlap": source.overlap,
    }
    console.print("\nA task file to start with; remove what is not needed, and import with --task:\n", highlight=False)
    for key, value in content.items():
        typer.echo(f"{key}: {json.dumps(value)}")


def _dimension(source: Source) -> int:
    """Dimension of the first image that is in the source; 2 if there is none."""
    first = next((case.images[0] for case in source.cases if case.images), None)
    return 2 if first is None else read_image(first).grid.dimension


@contextmanager
def _opened(studies: str, task_name: str) -> Iterator[tuple[Study, StudyFolderDatastore]]:
    task = load_task(task_name)
    # Findings about the whole folder, such as "no image" before the first import, are those of ``samstudent doctor``.
    logging.getLogger("samstudent.server.datastore").setLevel(logging.ERROR)
    study = Study(studies, str(app_folder(studies, None)), task)
    datastore = open_datastore(study, studies, watch=False)
    try:
        yield study, datastore
    finally:
        datastore.close()


def _send(datastore: StudyFolderDatastore) -> None:
    """Send the labels to the PACS if there is one; after an error, the next server sends them."""
    if exchange := getattr(datastore, "exchange", None):
        try:
            exchange.send()
        except Unavailable as error:
            print_finding("check", f"not sent yet: {error}")


def _progress(text: str) -> Callable[[Sequence[T]], Iterable[T]]:
    return partial(track, description=text, console=console, transient=True, disable=not console.is_terminal)


def _print_report(report: ImportReport, source: Source) -> None:
    counts = report.counts()
    listed = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no case"
    kind, style = ("ok   ", "green") if report.is_complete else ("wrong", "red")
    print_finding(kind, f"{source.format}: {listed}", style)
    if shown := report.structures():
        print_finding("ok   ", f"labels with {_listed(shown)}", "green")
    if left_out := report.left_out():
        print_finding("note ", f"names that are not in the task are left out (labels): {_listed(left_out)}")
    for remark in report.remarks:
        print_finding("note ", remark)
    _print_reasons("note ", [f"{case.id}: {note}" for case in report.cases for note in case.notes])
    open_names = [f"{case.id}: {', '.join(case.not_annotated)}" for case in report.cases if case.not_annotated]
    _print_reasons("not annotated", open_names)
    _print_reasons("kept ", [f"{case.id}: {case.reason}" for case in report.cases if case.label == "kept"])
    _print_reasons("not taken", [f"{case.id}: {case.reason}" for case in report.cases if not case.is_taken], "red")


def _print_reasons(kind: str, lines: Sequence[str], style: str = "yellow") -> None:
    for line in lines[:_PRINTED]:
        print_finding(kind, line, style)
    if len(lines) > _PRINTED:
        print_finding(kind, f"... and {len(lines) - _PRINTED} more", style)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
