"""An experiment from its options to the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from samstudent.engine.protocol import Engine
from samstudent.engine.resources import engine_for
from samstudent.errors import Conflict, UserError
from samstudent.pseudolabels.policy import MIN_LABELS
from samstudent.research.cases import PrepareCases
from samstudent.research.experiment import nnunet
from samstudent.research.experiment.methods import planned, select
from samstudent.research.experiment.plan import ExperimentOptions, Job, in_order
from samstudent.research.experiment.results import write_results
from samstudent.research.experiment.runner import Runner, run_items
from samstudent.research.experiment.work import EmbedImages
from samstudent.research.setting import Setting, make_setting
from samstudent.sam.registry import load_backend

console = Console()


def run_experiment(options: ExperimentOptions) -> dict[str, Any]:
    """Do the jobs that are not done yet, then write ``results.json`` and ``report.html``.

    Returns:
        The content of results.json.

    Raises:
        UserError: options that do not fit the folder; a folder or task that cannot be read.
        Conflict: another run works in the same output folder.
    """
    output = options.folder.output
    (output / "work").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / "experiment.lock", timeout=0):
            setting = make_setting(options.folder, options.labels)
            _check(setting, options)
            jobs = in_order(planned(setting, options.methods, options.labels, options.seeds))
            with engine_for(options.jobs, setting.work) as engine:
                failed = _run(setting, options, jobs, engine)
            results = write_results(setting, options, jobs, failed)
    except Timeout as error:
        raise Conflict(f"{output}: another experiment is running in this folder") from error
    return results


def _check(setting: Setting, options: ExperimentOptions) -> None:
    if "nnunet" in options.methods:
        nnunet.require()
    if min(options.labels) < MIN_LABELS and any(name.startswith("ours") for name in options.methods):
        raise UserError(f"--labels {min(options.labels)}: the method ours needs {MIN_LABELS} or more")
    if setting.task.sam.checkpoint is not None and any(method.uses_sam for method in select(options.methods).values()):
        # Else hours of labels-only training would come before the error about a wrong file.
        load_backend(setting.task.sam, "cpu").load()


def _run(setting: Setting, options: ExperimentOptions, jobs: Mapping[str, Job], engine: Engine) -> dict[str, str]:
    """Prepare cases, embed images, and do the jobs. Returns: key of a failed job -> reason."""
    used = dict.fromkeys(id for job in jobs.values() for id in job.cases)
    cases = setting.cases
    sources = {cases.prepared(id).key: cases.source(id) for id in used}
    names = {key: source.id for key, source in sources.items()}
    unreadable = run_items(engine, PrepareCases(cases.store, sources), names, "reading cases")
    hidden = {cases.prepared(id, hidden=True): cases.source(id, hidden=True) for id in used if id not in unreadable}
    sources = {prepared.key: source for prepared, source in hidden.items()}
    run_items(engine, PrepareCases(cases.store, sources), {p.key: p.id for p in hidden}, "reading cases without labels")
    if setting.task.dimension == 2 and any(method.uses_sam for method in select(options.methods).values()):
        # Here, because several jobs would otherwise embed the same images at the same time.
        ids = {EmbedImages.key_of(setting, id): id for id in setting.pool if id in used and id not in unreadable}
        run_items(engine, EmbedImages(setting, ids), ids, "embedding images")
    runner = Runner(setting, jobs, engine)
    for key, job in jobs.items():
        if bad := [id for id in job.cases if id in unreadable]:
            runner.failed[key] = f"{bad[0]}: {unreadable[bad[0]]}"
    return runner.run()
