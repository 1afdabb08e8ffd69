"""Checks of SAM, the device, the host and a study, for ``samstudent doctor`` with a task or a study."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from samstudent.cli.findings import Findings, console
from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import read_label
from samstudent.imaging.case import read_image
from samstudent.imaging.duplicates import duplicates
from samstudent.imaging.file_names import LABELS, case_id
from samstudent.imaging.folder import Listing, images_folder, list_folder
from samstudent.imaging.labels import other_names
from samstudent.imaging.value_lookup import KnownNames, names_for_reading, resolve
from samstudent.imaging.value_names import KEY, ValueNames, summary
from samstudent.sam.registry import load_backend
from samstudent.server.datastore.label_folder import LabelFolder, confirm, label_folder
from samstudent.task import Task, load_task
from samstudent.util.files import require_own, sha256_file

#: Minimum of free disk space in bytes: a round writes models and pseudo labels, and fails with less.
LEAST_FREE = 200 << 20


def check_models(findings: Findings, task: Task | None) -> None:
    """Check that the host and SAM can be loaded, and report the device."""
    findings.check("host", _host_starts)
    gpu = torch.cuda.is_available()
    findings.ok("device", torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads")
    findings.check("SAM", lambda: _describe_sam(task))


def _host_starts() -> str:
    try:
        # Here, not above: an error of this import is a finding.
        import monailabel.interfaces.app  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"MONAI Label cannot be imported: {error}. Reinstall samstudent: its start-up file is missing"
        ) from error
    return "MONAI Label can be imported"


def _describe_sam(task: Task | None) -> str:
    backend = load_backend((task or load_task("phantom")).sam)
    return f"{backend.name}, weights {backend.digest[:12]}..."


def _describe_pacs(url: str, task: Task | None) -> str:
    # Here, not above: the DICOMweb client is needed only for a PACS.
    from samstudent.server.pacs.client import Pacs
    from samstudent.server.pacs.settings import PacsSettings, require_supported_task

    if task:
        require_supported_task(task)
    kinds = Counter(series.modality for series in Pacs(url, PacsSettings.from_environment()).series())
    return f"{url} responds; series: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common()) or 'none'}"


def check_pacs(findings: Findings, url: str, task: Task | None) -> None:
    """Check that a PACS responds, and report its images that cannot be used."""
    findings.check("PACS", lambda: _describe_pacs(url, task))
    for line in _pacs_problems(url, task) if task else ():
        findings.fault("image", line)


def _pacs_problems(url: str, task: Task) -> list[str]:
    """Images of a PACS that the server could not use when it last read them, one line each."""
    from samstudent.rounds.study import Study
    from samstudent.server.pacs.state_folder import pacs_folder
    from samstudent.server.pacs.sync_state import SyncState

    file = Study(url, str(pacs_folder(url)), task).folder / "pacs" / "pacs.sqlite"
    if not file.is_file():
        return []
    return [f"case {case}: {problem}" for case, (_, problem) in sorted(SyncState(file).image_problems().items())]


def _value_names(folder: Path, place: LabelFolder, labels: dict[str, Path], task: Task) -> dict[str, ValueNames]:
    """Value names of the human labels by case id, resolved like in the server."""
    listed = _label_infos(folder / place.list)
    known = KnownNames(folder / place.labels, listed.values)
    found = {}
    for case, path in labels.items():
        sha256, info = sha256_file(path), listed.get(case, {})
        # The host's list has no digest of the content.
        found[case] = resolve(path, sha256, info if info.get("sha256", sha256) == sha256 else {}, task, known)
    return found


def _label_infos(path: Path) -> dict[str, dict[str, Any]]:
    """Info of the human labels by case id, from the host's list of a folder."""
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))["objects"]
        finals = {case_id(case): entry["labels"].get("final") for case, entry in objects.items()}
        return {case: final["info"] for case, final in finals.items() if final}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no server has used this folder yet
        return {}


def check_study(findings: Findings, folder: Path, task: Task | None) -> None:
    """Check a study folder: permissions, images, and with a task its labels and their values."""
    if not folder.is_dir():
        findings.fault("study", f"{folder}: no such folder")
        return
    for fault in unwritable(folder):
        findings.fault("study", fault)
    try:
        where = images_folder(folder)
        channels = task.image.sequences if task else None
        found = list_folder(where, dimension=task.dimension if task else None, channels=channels)
        place = label_folder(folder, task) if task else LabelFolder()
        final = folder / place.labels / "final"
        labels = list_folder(final, LABELS) if final.is_dir() else Listing({}, [])
    except UserError as error:
        findings.fault("study", str(error))
        return
    findings.remarks("image", found.remarks + duplicates(found.files))
    if place.note:
        findings.warn("labels", place.note)
    findings.remarks("label", labels.remarks, f"{place.labels}/final/")
    cases = {}
    for case, path in found.files.items():
        try:
            image = cases[case] = read_image(path, task.dimension if task else None)
            for note in image.notes:
                findings.note("image", f"{path}: {note}")
        except UserError as error:
            findings.fault("image", str(error))
    if not cases:
        findings.fault("study", f"{folder}: no readable image in it or in its images/")
        return
    drawn, unknown, left_open = Counter[str](), Counter[str](), Counter[str]()
    meanings = _value_names(folder, place, labels.files, task) if task else {}
    for case, path in labels.files.items():
        if case not in found.files:
            findings.fault("label", f"{path}: no image of this name")
        elif task and case in cases and not meanings[case].is_of_another_task(task):
            try:
                names = names_for_reading(path, {KEY: meanings[case].as_json()})
                label = read_label(path, task, cases[case].grid, names=names)
                unknown.update(other_names(path, task, names))
            except UserError as error:
                findings.fault("label", str(error))
            else:
                drawn.update(name for name, mask in zip(task.names, label.masks, strict=True) if mask.any())
                left_open.update(n for n, known in zip(task.names, label.annotated, strict=True) if not known)
    labelled = labels.files.keys() & found.files.keys()
    if task and labelled:
        findings.ok(
            "labels", f"of {len(labelled)} labels: " + ", ".join(f"{name} {drawn[name]}" for name in task.names)
        )
    if left_open:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(left_open.items()))
        findings.ok("labels", f"not annotated, so not used in training and comparisons: {counts}")
    usable = [found for found in meanings.values() if not found.problem]
    for line in summary(usable, task, left_out_too=False) if task else ():
        findings.warn("labels", line)
    if unknown:
        others = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        findings.ok("labels", f"structures that are not in the task are left out: {others}")
    unreadable = len(found.files) - len(cases)
    more = f" ({unreadable} of them cannot be used)" if unreadable else ""
    findings.ok("study", f"{len(found.files)} images{more}, {len(labelled)} human labels")


def unwritable(study: Path) -> list[str]:
    """Reasons why a server or a round cannot write into a study folder, one line each."""
    faults = []
    written = [study / name for name in (".samstudent", "labels", "labels/final", "labels/pseudo", "labels/pseudo_raw")]
    locked = [folder for folder in (study, *written) if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)]
    if locked:  # usually all of them; one message is sufficient
        text = "change its permissions (serve and train write into it), or use a copy of the study"
        faults.append(f"{locked[0]}: not writable for this user; {text}")
    for folder in {images_folder(study): None} | dict.fromkeys(written):
        if folder.is_dir() and folder != study:
            try:
                require_own(folder / "file", study)
            except UserError as error:
                faults.append(str(error))
    free = shutil.disk_usage(study).free
    if free < LEAST_FREE:
        faults.append(f"{study}: only {free >> 20} MB of free disk space; at least {LEAST_FREE >> 20} MB are required")
    return faults


def confirm_labels(studies: Path, task_name: str) -> None:
    """Confirm that the label maps of a study use the label values of the task, where this was only assumed.

    Raises:
        NotFound: no such folder. Conflict: see ``label_folder.confirm``.
    """
    task = load_task(task_name)
    if not studies.is_dir():
        raise NotFound(f"{studies}: no such folder")
    counts = confirm(studies, task)
    listing = ", ".join(f"{value} = {name}" for name, value in task.structures.items())
    console.print(f"{counts['confirmed']} label maps: {listing}. A running server uses it after a restart.")
    if counts["known"]:
        console.print(f"{counts['known']} labels unchanged: their names were known")
    if counts["other values"]:
        console.print(f"{counts['other values']} labels unchanged: they have other values; see samstudent doctor")
