"""Dice plus cross entropy, weighted by how well each structure of each case is known.

Every case comes with one weight for each structure (human labels: 1; pseudo labels: their quality) and an ignore mask.
A weight of 0 says that nothing is known of the structure in this case, because its pseudo label failed the gate:

- Sigmoid (structures may overlap): that channel of that case takes no part. The other channels do not see it.
- Softmax: the pixels of its ignore region take no part. Everywhere else a pixel that is labelled background may as well
  be the unknown structure (the region is only where student or SAM looked for it), so "background" is taught as
  "background or any unknown structure": their probabilities are summed. This is the marginal loss for partially
  labelled data (Shi et al., Medical Image Analysis 70, 2021, doi:10.1016/j.media.2021.101979). Pixels labelled as
  another structure still teach.

Targets may be soft, i.e. probabilities. Cross entropy takes them as they are; where structures may not overlap,
background has what they leave of 1. The Dice of probabilities is not largest at the target itself when that is soft, so
the product in it is replaced by the smaller of both, which is the same for hard targets (the Dice semimetric loss of
Wang et al., MICCAI 2023, arXiv:2303.16296).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

Targets = dict[str, torch.Tensor]


class StudentLoss(nn.Module):
    """Mean of both parts' sum. Dice is taken over the whole batch, so that a structure absent from one case is no 0/0.

    Args of a call:
        logits: (B, S, *size) where structures may overlap, else (B, 1 + S, *size) with background first.
        targets: ``masks`` in [0, 1] and ``ignore`` 0/1 (B, S, *size), ``weights`` in [0, 1] (B, S).
    """

    def __init__(self, overlap: bool) -> None:
        super().__init__()
        self.overlap = overlap

    def forward(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        # float32: half precision cannot sum the pixels of an image.
        logits = logits.float().flatten(2)
        masks = targets["masks"].to(logits).flatten(2)
        valid = 1 - targets["ignore"].to(logits).flatten(2)
        weights = targets["weights"].to(logits)
        if self.overlap:
            entropy = _binary_entropy(logits, masks, valid, weights)
            return entropy + _dice(logits.sigmoid(), masks, valid, weights)
        pixels = valid.amin(dim=1, keepdim=True)
        entropy = _marginal_entropy(logits, masks, pixels, weights)
        return entropy + _dice(logits.softmax(dim=1)[:, 1:], masks, pixels, weights)


def _binary_entropy(
    logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted mean over cases and structures of each channel's mean over its valid pixels."""
    entropy = binary_cross_entropy_with_logits(logits, masks, reduction="none")
    channel = (entropy * valid).sum(dim=2) / valid.sum(dim=2).clamp(min=1)
    return (channel * weights).sum() / weights.sum().clamp(min=1e-6)


def _marginal_entropy(
    logits: torch.Tensor, masks: torch.Tensor, pixels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted mean over pixels. A structure's share of a pixel weighs as the structure; background as the mean of the
    known structures."""
    log_p = logits.log_softmax(dim=1)
    known = (weights > 0).to(weights)
    # Background, and with it every unknown structure; the known ones are taken out of the sum.
    excluded = torch.cat([torch.zeros_like(known[:, :1]), known], dim=1) > 0
    background = log_p.masked_fill(excluded[:, :, None], -torch.inf).logsumexp(dim=1)
    background_weight = weights.sum(dim=1) / known.sum(dim=1).clamp(min=1)
    outside = (1 - masks.sum(dim=1)).clamp(min=0) * background_weight[:, None] * pixels[:, 0]
    inside = masks * weights[:, :, None] * pixels
    entropy = (log_p[:, 1:] * inside).sum() + (background * outside).sum()
    return -entropy / (inside.sum() + outside.sum()).clamp(min=1e-6)


def _dice(probabilities: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """1 - Dice over the batch, averaged over the structures that it shows; cross entropy alone teaches absence."""
    weight = weights[:, :, None] * valid
    overlap = (weight * torch.minimum(probabilities, masks)).sum(dim=(0, 2))
    total = (weight * (probabilities + masks)).sum(dim=(0, 2))
    shown = (weight * (masks >= 0.5)).amax(dim=(0, 2)).sign()
    return ((1 - 2 * overlap / total.clamp(min=1e-6)) * shown).sum() / shown.sum().clamp(min=1)
