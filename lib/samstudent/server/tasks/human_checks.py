"""Comparison of pseudo labels with the human labels that replace them: how often lower bounds of Dice are true."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samstudent.errors import UserError
from samstudent.imaging.label_tags import FINAL, PSEUDO
from samstudent.imaging.labels import read_masks, read_rejected
from samstudent.imaging.value_lookup import names_for_reading
from samstudent.metrics import dice_where_known
from samstudent.pseudolabels.bound_checks import BoundCheck
from samstudent.rounds.cases import read_labelled
from samstudent.rounds.study import Study
from samstudent.server.datastore.identifiers import ACCEPTED_FROM, PROMISE
from samstudent.util.files import sha256_file

logger = logging.getLogger(__name__)


def is_checked(info: Mapping[str, Any]) -> bool:
    """Whether a person has seen a human label with this info; not so if it was accepted for its lower bound of Dice."""
    return PROMISE not in (info.get(ACCEPTED_FROM) or {})


def record_check(study: Study, datastore: Any, case: str) -> None:
    """Record the Dice of a case's pseudo label and its human label beside the lower bounds; called before the pseudo
    label is removed. Nothing is recorded without bounds, or where no person has seen the human label."""
    labels = datastore.get_labels_by_image_id(case)
    if FINAL not in labels or PSEUDO not in labels:
        return
    final, pseudo = (datastore.get_label_info(labels[tag], tag) for tag in (FINAL, PSEUDO))
    structures = {n: s for n, s in (pseudo.get("structures") or {}).items() if s.get("lower_bound") is not None}
    if not structures or not is_checked(final):
        return
    drawn, made = (Path(datastore.get_label_uri(labels[tag], tag)) for tag in (FINAL, PSEUDO))
    try:
        image = Path(datastore.get_image_uri(case))
        shown, truth = read_labelled(image, drawn, study.task, names_for_reading(drawn, final))
        masks = read_masks(made, study.task, shown.grid) | read_rejected(made, study.task, shown.grid)
        dice = dict(zip(study.task.names, dice_where_known(truth, masks).tolist(), strict=True))
        checks = [
            BoundCheck(name, found["lower_bound"], found["certainty"], dice[name])
            for name, found in structures.items()
            if dice.get(name, float("nan")) == dice.get(name)
        ]
        study.bound_checks.record(case, sha256_file(made), checks, accepted=ACCEPTED_FROM in final)
    except (UserError, OSError) as error:
        logger.warning("the pseudo label of %s is not compared with its human label: %s", case, error)
