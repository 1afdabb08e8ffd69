"""Recipes scored on honest cases, without decoding anything twice and without keeping more than numbers of pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samstudent.pseudolabels.choice import Evidence
from samstudent.sam.decode import DecodedStructure, DecodePlan, decode_structures
from samstudent.sam.embedding import Embedding
from samstudent.sam.fusion import combine, fuse
from samstudent.sam.model import SamBackend
from samstudent.sam.prompts import Mask, apply_morphology, box_of, coarse_masks, window_of
from samstudent.task import Recipe
from samstudent.util.device import on_all_cores

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class OutOfFoldSlice:
    """A labelled image, or one slice of a labelled volume, with the prediction of a student that never saw it.

    Attributes:
        id: of the case. The slices of a volume share it.
        fold: of the cross-fitting.
        probabilities: float16 (S, y, x) on the working grid, ``prompts.one_vs_rival``.
        truth: bool (S, y, x).
        embedding: its ``image_size`` is the working grid.
        volume: float16 (S, z, y, x), what is predicted of the whole volume, whose slice ``z`` this is: not all slices
            may take part, but coarse masks are cleaned in 3D. None: an image, or slices that follow one another.
        unknown: bool (S, y, x), where the label leaves a structure open; ``truth`` is False there. None: nowhere.
    """

    id: str
    fold: int
    probabilities: NDArray[np.float16]
    truth: Mask
    embedding: Embedding
    volume: NDArray[np.float16] | None = None
    z: int = 0
    unknown: Mask | None = None


class Bench:
    """Scores recipes on cases, and decodes nothing twice.

    What a decoding gives depends on the coarse mask and the prompts drawn from it, not on the recipe that led there:
    where a structure has one component, all rules of components are one. Only numbers of pixels are kept of it.
    """

    def __init__(
        self, cases: Sequence[OutOfFoldSlice], backend: SamBackend, adapted: Mapping[int, SamBackend] | None
    ) -> None:
        self._backend, self._adapted = backend, adapted
        self._known: dict[bytes, NDArray[np.int64]] = {}
        groups: dict[str, list[OutOfFoldSlice]] = {}
        for case in cases:
            groups.setdefault(case.id, []).append(case)
        volumes = self._volumes = list(groups.values())
        self.folds = [volume[0].fold for volume in volumes]
        self._areas = np.array([sum(case.truth.sum(axis=(1, 2)) for case in volume) for volume in volumes])
        #: bool (n, S): whether a case's truth shows the structure.
        self.shown = self._areas > 0
        #: Structures decoded so far, and how many there are to decode in a configuration (in the last one scored).
        self.decoded = self.present = 0

    def dice(self, sources: Sequence[Recipe]) -> NDArray[np.float64]:
        """Dice (n, S, len(sources)) of recipes that differ in nothing but source and fusion; nan where nothing is."""

        def score(volume: Sequence[OutOfFoldSlice]) -> tuple[NDArray[np.int64], int, int]:
            total = np.zeros((self.shown.shape[1], len(sources), 2), dtype=np.int64)
            slices = zip(volume, _coarse(volume, sources[0]), strict=True)
            found = [self._add(total, case, coarse, sources) for case, coarse in slices]
            return total, sum(present for present, _ in found), sum(decoded for _, decoded in found)

        counts, present, decoded = zip(*on_all_cores(score, self._volumes), strict=True)
        self.present = sum(present)
        self.decoded += sum(decoded)
        return self._dice_of(np.stack(counts))

    def resolved(self, recipes: Sequence[Recipe]) -> float:
        """Mean Dice of one recipe for each structure after each pixel went to one structure."""
        asks = [recipe.source != "student" for recipe in recipes]
        counts = np.zeros((*self.shown.shape, 1, 2), dtype=np.int64)
        for total, volume in zip(counts, self._volumes, strict=True):
            of_rule = {recipe.component: _coarse(volume, recipe) for recipe in recipes}
            for z, case in enumerate(volume):
                coarse = np.stack([of_rule[recipe.component][z, s] for s, recipe in enumerate(recipes)])
                drawn = self._ask(case, coarse, recipes, asks)
                logits = [None if answer is None else answer.logits for answer in drawn]
                masks = fuse(case.probabilities.astype(np.float32), logits, coarse, recipes, overlap=False)[1]
                if case.unknown is not None:
                    masks = masks & ~case.unknown
                total[:, 0, 0] += (masks & case.truth).sum(axis=(1, 2))
                total[:, 0, 1] += masks.sum(axis=(1, 2))
        evidence = Evidence.of(self._dice_of(counts), self.shown)
        return float(evidence.dice.sum() / max(evidence.valid.sum(), 1))

    def _dice_of(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Dice (n, S, R) of pixels in common with the truth and drawn (n, S, R, 2)."""
        size = counts[..., 1] + self._areas[..., None]
        return np.where(size > 0, 2 * counts[..., 0] / np.maximum(size, 1), np.nan)

    def _add(
        self, total: NDArray[np.int64], case: OutOfFoldSlice, coarse: Mask, sources: Sequence[Recipe]
    ) -> tuple[int, int]:
        """Add one slice's pixels (S, len(sources), 2), in common with the truth and drawn, to ``total``.

        Returns:
            How many structures are present, and how many of them were decoded.
        """
        present = [int(s) for s in np.flatnonzero(coarse.any(axis=(1, 2)))]
        keys = {s: self._key(case, coarse, s, sources) for s in present}
        missing = [s for s in present if keys[s] not in self._known]
        asked = sources[0].source != "student"
        if missing:
            drawn = self._ask(case, coarse, sources[0], [asked and s in missing for s in range(len(coarse))])
            for s in missing:
                answer = drawn[s]
                logits = None if answer is None else answer.logits
                self._known[keys[s]] = _pixels(case, s, coarse[s], logits, sources)
        for s in present:
            total[s] += self._known[keys[s]]
        return len(present), asked * len(missing)

    def _ask(
        self, case: OutOfFoldSlice, coarse: Mask, recipe: Recipe | Sequence[Recipe], wanted: Sequence[bool]
    ) -> list[DecodedStructure | None]:
        """SAM's answers on the structures that are present and wanted."""
        adapted = None if self._adapted is None else self._adapted[case.fold]
        recipes = [recipe] * len(coarse) if isinstance(recipe, Recipe) else recipe
        plans = [
            DecodePlan(own, adapted if adapted is not None and own.decoder == "adapted" else self._backend)
            if needed
            else None
            for own, needed in zip(recipes, wanted, strict=True)
        ]
        return decode_structures(coarse, case.embedding, plans)

    def _key(self, case: OutOfFoldSlice, coarse: Mask, s: int, sources: Sequence[Recipe]) -> bytes:
        """Digest of all that the pixels of one structure in one slice depend on."""
        recipe = sources[0]
        stages = [stage.prompts for stage in recipe.stages_for(self._backend.name)]
        kinds = {kind for prompts in stages for kind in prompts}
        parts: list[object] = [id(case), s, [(r.source, r.fusion_weight, r.border_width) for r in sources]]
        masks = [coarse[s]]
        if recipe.source != "student":
            shaped = apply_morphology(coarse[s], recipe)
            box = box_of(shaped, recipe.box_margin) if "box" in kinds else None
            parts += [recipe.decoder if self._adapted else "plain", stages, box]
            masks += [shaped] if "mask" in kinds else []
            masks += [coarse] if "negative" in kinds else []
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
        for mask in masks:
            digest.update(np.packbits(mask).tobytes())
        return digest.digest()


def _pixels(
    case: OutOfFoldSlice, s: int, coarse: Mask, logits: Logits | None, sources: Sequence[Recipe]
) -> NDArray[np.int64]:
    """For each source the pixels in common with the truth, and those drawn, int (len(sources), 2)."""
    # Outside this window student and SAM both say no, and so does whatever is made of the two.
    window = window_of(coarse if logits is None else coarse | (logits >= 0))
    assert window is not None
    room = 1 + max(source.border_width for source in sources)
    near = tuple(slice(max(part.start - room, 0), part.stop + room) for part in window)
    probability, truth = case.probabilities[s][near].astype(np.float32), case.truth[s][near]
    part = None if logits is None else logits[near]
    known = True if case.unknown is None else ~case.unknown[s][near]
    drawn = [(combine(probability, part, coarse[near], source) >= 0.5) & known for source in sources]
    return np.array([[np.count_nonzero(mask & truth), np.count_nonzero(mask)] for mask in drawn], dtype=np.int64)


def _coarse(volume: Sequence[OutOfFoldSlice], recipe: Recipe) -> Mask:
    """Coarse masks bool (slices, S, y, x); those of a volume are cleaned in 3D."""
    if volume[0].volume is not None:
        whole = coarse_masks(volume[0].volume.astype(np.float32), recipe)
        return np.moveaxis(whole[:, [case.z for case in volume]], 1, 0)
    stack = np.stack([case.probabilities for case in volume], axis=1).astype(np.float32)
    if len(volume) == 1:
        return coarse_masks(stack[:, 0], recipe)[None]
    return np.moveaxis(coarse_masks(stack, recipe), 1, 0)
