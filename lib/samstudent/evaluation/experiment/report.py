"""Results of an experiment, as JSON and as a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from samstudent.evaluation.experiment import work
from samstudent.evaluation.experiment.plan import Job, Options, Setting
from samstudent.evaluation.report import installed_versions
from samstudent.files import atomic_write


def write_results(
    setting: Setting, options: Options, jobs: Mapping[str, Job], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Collect what the jobs left and write ``results.json``; its content comes back."""
    results = []
    for key, job in jobs.items():
        if job.kind == "evaluate" and key not in failed:
            results.append(json.loads(work.result_path(setting.output, job.params).read_text()))
    content = {
        "command": options.command,
        "versions": installed_versions(),
        "options": options.as_json(),
        "failed": [{"job": jobs[key].label, "why": why} for key, why in failed.items()],
        "results": results,
    }
    atomic_write(setting.output / "results.json", json.dumps(content, indent=1))
    return content
