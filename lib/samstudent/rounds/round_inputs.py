"""Inputs of a round, recorded in ``inputs.json`` so that its training can be repeated."""

from __future__ import annotations

import logging
import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from samstudent.imaging.label_tags import PSEUDO, PSEUDO_RAW
from samstudent.rounds.prepare import ids_of
from samstudent.rounds.pseudo_labeling import PseudoLabelResult
from samstudent.rounds.round_context import RoundContext
from samstudent.rounds.teaching import LabelledSet, label_record
from samstudent.util.files import sha256_file

logger = logging.getLogger(__name__)

#: Packages whose versions are recorded.
PACKAGES = ("samstudent", "monai", "monailabel", "numpy")


def record_inputs(
    labels: LabelledSet, result: PseudoLabelResult, left_out: dict[str, str], context: RoundContext
) -> None:
    """Record the training set, and everything else that the student depends on.

    Args:
        labels: human-labelled cases that train.
        result: pseudo labels, policy and initial weights.
        left_out: id -> reason, of labelled cases that do not train.
        context: of the round.
    """
    store, options, pseudo = context.store, context.options, result.pseudo
    content: dict[str, Any] = {}
    for case in labels.cases:
        content[case.id] = label_record(case) | {"image": case.content.image}
    used: dict[str, Any] = {"n": 0}
    if pseudo is not None:
        tag = PSEUDO if pseudo.kind == "refined" else PSEUDO_RAW
        used = {"n": len(pseudo.weights), "tag": tag, "targets": pseudo.targets}
        for case, weights in pseudo.weights.items():
            content[case.id] = {"tag": tag, "image": case.content.image}
            if weights is not None:
                content[case.id]["weights"] = [round(float(weight), 4) for weight in weights]
    store.training_set(ids_of(labels.cases), used, left_out)
    targets = f" (targets: {used['targets']})" if used["n"] else ""
    logger.info("%s: %d human labels, %d pseudo labels%s", store.name, len(labels.cases), used["n"], targets)
    made_with = None if pseudo is None else pseudo.made_with.as_json()
    policy = None if result.policy_path is None else os.path.relpath(result.policy_path, store.folder)
    start = result.start or options.weights_path
    trained = options.weights and options.weights.trained
    store.write_record(
        "inputs",
        {
            "task": context.task.model_dump(mode="json"),
            "options": options.as_json(),
            "cases": content,
            "pseudo_labels_made_with": made_with,
            "policy": policy,
            "start": None if start is None else sha256_file(start),
            **({} if trained is None else {"inherited": trained.as_json()}),
            # Not from the metadata of the package, which does not distinguish CUDA and CPU builds.
            "packages": {name: version(name) for name in PACKAGES} | {"torch": torch.__version__},
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
    )
