"""Click decoder of one study: the general one, or one adapted to the study's labels.

The adapted one lies in ``clicks.safetensors`` beside its record ``clicks.json``. It is made by the trainer task ``sam``
and used while its file is there.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samstudent.errors import NotFound, UserError
from samstudent.imaging.annotations import LabelledMasks
from samstudent.imaging.case import CaseImage, for_sam
from samstudent.pseudolabels.embedding_head import slice_axis_of
from samstudent.rounds.teaching import LabelledSet
from samstudent.sam.adapted import load_adapted, save_weights
from samstudent.sam.cached_sam import CachedSam
from samstudent.sam.click_adapt import ClickAdaptation, adapt_clicks
from samstudent.sam.click_decoder import ClickDecoder, click_decoder
from samstudent.sam.click_training import ClickExample, ClickTrainingOptions
from samstudent.sam.clicks import BOX_ONLY
from samstudent.sam.model import SamModel
from samstudent.task import Task
from samstudent.util.files import atomic_write
from samstudent.util.progress import Progress, Report

logger = logging.getLogger(__name__)

#: Training steps. A step takes about 1 s of a core with LiteMedSAM.
STEPS = 60
#: Largest number of slices of a volume that train: those with the largest structures.
_SLICES = 4


class ClickDecoders:
    """Click decoder of one study.

    Args:
        folder: of the study's state; created when a decoder is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.weights, self.record_file = folder / "clicks.safetensors", folder / "clicks.json"
        self._loaded: tuple[int, ClickDecoder] | None = None
        self._logged = ""
        self._lock = threading.Lock()

    def decoder(self, plain: SamModel, *, adapted: bool = True) -> ClickDecoder | None:
        """The adapted decoder, else the general one; None: the SAM has none of its own.

        An adapted one that cannot be used (damaged, or made of another SAM) is logged and replaced by the general one.

        Args:
            plain: the plain SAM.
            adapted: False: the general one, also where there is an adapted one.
        """
        found = self._adapted(plain) if adapted else None
        if found is None and (general := click_decoder(plain)) is not None:
            return ClickDecoder(general)
        return found

    def _adapted(self, plain: SamModel) -> ClickDecoder | None:
        with self._lock:
            try:
                stamp = self.weights.stat().st_mtime_ns
                if self._loaded is None or self._loaded[0] != stamp:
                    self._loaded = stamp, ClickDecoder(load_adapted(self.weights, plain), least=1)
                return self._loaded[1]
            except (FileNotFoundError, NotFound):
                pass
            except UserError as error:
                if str(error) != self._logged:
                    logger.error("the general click decoder is used: %s", error)
                    self._logged = str(error)
        return None

    def store(self, adaptation: ClickAdaptation, plain: SamModel) -> None:
        """Store an adaptation, which is used from now on if it is better; else the decoder of before stays."""
        if adaptation.used:
            save_weights(self.weights, adaptation.weights, plain, adaptation.record())
        atomic_write(self.record_file, json.dumps(adaptation.record(), indent=1))

    def adapt(self, labels: LabelledSet, sam: CachedSam, seed: int, report: Report) -> ClickAdaptation | None:
        """Adapt the general decoder to human labels, and store the result.

        Args:
            labels: the labelled cases.
            sam: the plain SAM.
            seed: of the training.
            report: called with the progress.

        Returns:
            None for a SAM whose point prompts were never trained, and for which there is no general click decoder.
        """
        # Not from an adapted one, which has seen the cases that are left out for the comparison.
        start = click_decoder(sam.backend)
        if start is None and sam.backend.name in BOX_ONLY:
            return None
        report(Progress("training SAM with clicks"))
        task = labels.store.task
        examples = {case.id: click_examples(*labels.read(case.id), task, sam) for case in labels.cases}
        adaptation = adapt_clicks(
            start or sam.backend,
            {case: found for case, found in examples.items() if found},
            ClickTrainingOptions(STEPS),
            seed,
            lambda done, total: report(Progress("training SAM with clicks", done, total)),
        )
        self.store(adaptation, sam.backend)
        return adaptation


def click_examples(image: CaseImage, truth: LabelledMasks, task: Task, sam: CachedSam) -> list[ClickExample]:
    """The image of a 2D case, or the slices of a volume with the largest structures, with their masks.

    A structure that is partly unknown in the image or the slice is left out: its border is not complete.

    Args:
        image: of the case.
        truth: on the image's canonical grid; of a 2D image on any grid that covers it.
        task: intensities and the axis of slices.
        sam: computes the embeddings.
    """
    pixels = for_sam(image, task.image)
    if task.dimension == 2:
        return _examples(pixels, _shown(truth), sam)
    axis = slice_axis_of(task)
    slices, masks = np.moveaxis(pixels, axis, 0), [_shown(label) for label in truth.slices(axis)]
    largest = np.argsort([-found.sum() for found in masks], kind="stable")[:_SLICES]
    return [e for z in sorted(largest) for e in _examples(np.ascontiguousarray(slices[z]), masks[z], sam)]


def _shown(label: LabelledMasks) -> NDArray[np.bool_]:
    """Masks of the structures that are completely known and not empty, bool (N, y, x)."""
    return np.asarray(label.masks[label.complete & label.masks.any(axis=(1, 2))])


def _examples(pixels: NDArray[Any], shown: NDArray[np.bool_], sam: CachedSam) -> list[ClickExample]:
    """At most one example: none without a mask."""
    height, width = shown.shape[1:]
    return [ClickExample(sam.embed(pixels).on_grid((height, width)), shown)] if len(shown) else []
