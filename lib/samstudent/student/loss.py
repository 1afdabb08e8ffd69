"""Dice plus cross entropy, weighted by structure and case.

Every case has one weight for each structure (human labels: 1; pseudo labels: their quality) and an ignore mask. A
weight of 0 means that the structure is unknown in this case, because the quality filter rejected its pseudo label:

- Sigmoid (structures may overlap): the channel of that case is left out.
- Softmax: the pixels of its ignore region are left out. Elsewhere a pixel labelled as background may be the unknown
  structure, too, so the target "background" is "background or any unknown structure": their probabilities are summed.
  This is the marginal loss for partially labelled data (Shi et al., Medical Image Analysis 70, 2021,
  doi:10.1016/j.media.2021.101979). Pixels labelled as another structure are used.

Where the network has the output ``interior`` (``student.objects``), cross entropy and Dice of the interior are added.

Targets may be soft, i.e. probabilities, in both parts; where structures may not overlap, background is 1 minus their
sum. The Dice of probabilities is not largest at a soft target itself, so its product is replaced by the smaller of
both, which is the same for hard targets (the Dice semimetric loss of Wang et al., MICCAI 2023, arXiv:2303.16296).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from samstudent.student.objects import interior_of

Targets = dict[str, torch.Tensor]


class LossParts(NamedTuple):
    """Loss of a batch.

    Attributes:
        total: the loss, a scalar with gradient.
        dice: soft Dice of the batch, averaged over its structures.
    """

    total: torch.Tensor
    dice: torch.Tensor


class StudentLoss(nn.Module):
    """Sum of both parts. Dice is computed over the whole batch, so that a structure absent from one case is no 0/0.

    Args of a call:
        logits: (B, S, *size) where structures may overlap, else (B, 1 + S, *size) with background first.
        targets: ``masks`` in [0, 1] (B, S, *size), or, where structures do not overlap, ``label``: whole numbers
            (B, *size), 0 background, else 1 + the structure's index; ``ignore`` 0/1 (B, S or 1, *size); ``weights`` in
            [0, 1] (B, S). A label gives the same loss as its masks, several times faster where structures are many.

    Args:
        overlap: whether structures may overlap.
        interior: whether one more channel of the logits, the last one, is that of the interior.
    """

    def __init__(self, overlap: bool, interior: bool = False) -> None:
        super().__init__()
        self.overlap, self.interior = overlap, interior

    def forward(self, logits: torch.Tensor, targets: Targets) -> LossParts:
        if not self.interior:
            return self._of_structures(logits, targets)
        found = self._of_structures(logits[:, :-1], targets)
        return LossParts(found.total + _interior_loss(logits[:, -1], targets), found.dice)

    def _of_structures(self, logits: torch.Tensor, targets: Targets) -> LossParts:
        keys = [key for key in ("masks", "label", "ignore", "weights") if key in targets]
        split = [targets[key].to(logits.device).split(1) for key in keys]
        # One case at a time: on a CPU the allocation of arrays of a whole batch takes most of the time (32 structures
        # at 256 x 512: 0.64 s for a step, 0.26 s with one case at a time).
        parts = [
            self._of_case(case, dict(zip(keys, its, strict=True)))
            for case, *its in zip(logits.split(1), *split, strict=True)
        ]
        entropy, weight, common, both, shown = (torch.cat(part) for part in zip(*parts, strict=True))
        dice = _dice(common, both, shown, targets["weights"].to(common))
        return LossParts(entropy.sum() / weight.sum().clamp(min=1e-6) + dice, 1 - dice.detach())

    def _of_case(self, logits: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, ...]:
        """Parts of one case: weighted sum of cross entropies and sum of their weights (1,), and the three sums of
        ``_dice`` (1, S)."""
        # float32: half precision cannot sum the pixels of an image.
        logits = logits.float().flatten(2)
        valid = 1 - targets["ignore"].to(logits).flatten(2)
        weights = targets["weights"].to(logits)
        if self.overlap:
            masks = targets["masks"].to(logits).flatten(2)
            return *_binary_entropy(logits, masks, valid, weights), *_sums(logits.sigmoid(), masks, valid)
        pixels = valid.amin(dim=1)
        log_p = logits.log_softmax(dim=1)
        probabilities = log_p.exp()
        if "label" in targets:
            label = targets["label"].flatten(1).long()
            return *_label_entropy(log_p, label, pixels, weights), *_label_sums(probabilities, label, pixels)
        masks = targets["masks"].to(logits).flatten(2)
        entropy = _marginal_entropy(log_p, masks, pixels, weights)
        return *entropy, *_sums(probabilities[:, 1:], masks, pixels[:, None])


#: Weighted cross entropy and the sum of its weights, (1,) each.
Weighted = tuple[torch.Tensor, torch.Tensor]
#: (1, S) each: sums over the valid pixels of intersection and of prediction plus target; whether the target is there.
Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _binary_entropy(logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, weights: torch.Tensor) -> Weighted:
    """Mean over the valid pixels of each channel, weighted by the channel."""
    entropy = binary_cross_entropy_with_logits(logits, masks, reduction="none")
    channel = (entropy * valid).sum(dim=2) / valid.sum(dim=2).clamp(min=1)
    return (channel * weights).sum(dim=1), weights.sum(dim=1)


def _marginal_entropy(
    log_p: torch.Tensor, masks: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor
) -> Weighted:
    """Sum over pixels. The weight of background is the mean of the known structures'."""
    outside = (1 - masks.sum(dim=1)).clamp(min=0) * _background_weight(weights) * pixels
    inside = masks * weights[:, :, None] * pixels[:, None]
    entropy = (log_p[:, 1:] * inside).sum(dim=(1, 2)) + (_log_background(log_p, weights) * outside).sum(dim=1)
    return -entropy, inside.sum(dim=(1, 2)) + outside.sum(dim=1)


def _label_entropy(log_p: torch.Tensor, label: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor) -> Weighted:
    """``_marginal_entropy`` of hard labels, by gather instead of a sum over structures."""
    taught = log_p.gather(1, label[:, None])[:, 0]
    taught = torch.where(label == 0, _log_background(log_p, weights), taught)
    weight = torch.cat([_background_weight(weights), weights], dim=1).gather(1, label) * pixels
    return -(taught * weight).sum(dim=1), weight.sum(dim=1)


def _log_background(log_p: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Log probability (1, N) of background or any unknown structure."""
    unknown = weights[0] == 0
    if not unknown.any():
        return log_p[:, 0]
    merged = torch.cat([torch.ones_like(unknown[:1]), unknown])
    return log_p[:, merged].logsumexp(dim=1)


def _background_weight(weights: torch.Tensor) -> torch.Tensor:
    """Weight of background (1, 1): the mean over the known structures."""
    return weights.sum(dim=1, keepdim=True) / (weights > 0).sum(dim=1, keepdim=True).clamp(min=1)


def _interior_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Cross entropy and 1 - Dice of the interior; logits (B, H, W). Pixels that are ignored do not count."""
    logits = logits.float()
    target = interior_of(_hard_label(targets)).to(logits)
    valid = 1 - targets["ignore"].to(logits).amax(dim=1)
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    probabilities = logits.sigmoid()
    common, both = (probabilities * target * valid).sum(), ((probabilities + target) * valid).sum()
    return (entropy * valid).sum() / valid.sum().clamp(min=1) + 1 - 2 * common / both.clamp(min=1e-6)


def _hard_label(targets: Targets) -> torch.Tensor:
    """Whole numbers (B, H, W): 0 background, else 1 + the structure's index."""
    if "label" in targets:
        return targets["label"]
    highest = targets["masks"].max(dim=1)
    return torch.where(highest.values >= 0.5, highest.indices + 1, 0)


def _sums(probabilities: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> Sums:
    common = (torch.minimum(probabilities, masks) * valid).sum(dim=2)
    both = ((probabilities + masks) * valid).sum(dim=2)
    return common, both, ((masks >= 0.5) & (valid > 0)).any(dim=2)


def _label_sums(probabilities: torch.Tensor, label: torch.Tensor, pixels: torch.Tensor) -> Sums:
    """``_sums`` of hard labels."""
    channels = probabilities.shape[:2]
    taught = probabilities.gather(1, label[:, None])[:, 0] * pixels
    common = taught.new_zeros(channels).scatter_add(1, label, taught)[:, 1:]
    count = pixels.new_zeros(channels).scatter_add(1, label, pixels)[:, 1:]
    expected = torch.bmm(probabilities, pixels[:, :, None])[:, 1:, 0]
    return common, expected + count, count > 0


def _dice(common: torch.Tensor, both: torch.Tensor, shown: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """1 - Dice over the batch, averaged over the structures in it; absence is a target of the cross entropy only.

    Args: sums of each case, (B, S).
    """
    common, both = (weights * common).sum(dim=0), (weights * both).sum(dim=0)
    counts = (shown & (weights > 0)).any(dim=0).to(both)
    return ((1 - 2 * common / both.clamp(min=1e-6)) * counts).sum() / counts.sum().clamp(min=1)
