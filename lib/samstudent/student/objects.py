"""Objects of a prediction: all pixels of an object get the same structure.

Where many structures look alike, e.g. 32 teeth, a student often takes one half of a tooth for its neighbour. It learns
much sooner where one tooth ends. So the network has one more output, the *interior*: pixels that are surrounded by
their own structure, whichever that is. Connected parts of the interior, grown to the border of the prediction, are the
objects (as in DCAN: Chen et al., CVPR 2016, arXiv:1604.02677). The structure of an object is that with the highest mean
log probability over its pixels, and objects compete for structures, because most of them exist once.

Fixed shapes, pooling, gather and scatter only: the same code becomes a part of exported graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

#: Iterations that connect the pixels of an object; each one doubles the distance, except in winding objects.
_CONNECTING = 24
#: Largest distance in pixels from the interior of an object to its border.
_MARGIN = 6
#: Lowest probability of the interior.
_INTERIOR = 0.95
#: Fewest pixels of an object, and most of them relative to the median: larger ones are probably several structures
#: between which no border was found. The pixels of others keep their probabilities.
_FEWEST, _MOST = 10, 1.8
#: Iterations of the competition for structures. Each one at most halves the share of a structure in an object, so that
#: a structure with several parts keeps them where the others have less than about 1/32 of its probability.
_COMPETING = 5


def interior_of(label: Tensor) -> Tensor:
    """Pixels whose eight neighbours have the same structure.

    Args:
        label: whole numbers (B, H, W), 0: background.

    Returns:
        bool (B, H, W).
    """
    values = label[:, None].float()
    same = max_pool2d(values, 3, 1, 1) == -max_pool2d(-values, 3, 1, 1)
    return (same & (values > 0))[:, 0]


def with_one_structure_each(probabilities: Tensor, interior: Tensor) -> Tensor:
    """Probabilities in which the pixels of an object have the same structure.

    Args:
        probabilities: of the structures, float32 (S, H, W), with a sum of at most 1.
        interior: probability of the interior, float32 (H, W).

    Returns:
        float32 (S, H, W). Their sum, i.e. the probability of any structure, is unchanged.
    """
    structures, device = probabilities.shape[0], probabilities.device
    any_structure = probabilities.sum(dim=0)
    shown = probabilities.amax(dim=0) > 1 - any_structure
    numbers = _grown(_connected(interior > _INTERIOR), shown).flatten()
    pixels = numbers.shape[0]
    sizes = torch.zeros(pixels + 1, device=device).scatter_add(0, numbers, (numbers > 0).float())
    # A fixed number of the largest ones.
    size, largest = sizes.topk(2 * structures)
    places = torch.zeros(pixels + 1, dtype=torch.long, device=device)
    places = places.scatter(0, largest, torch.arange(1, 2 * structures + 1, device=device))
    place = torch.where(numbers > 0, places[numbers], 0)  # 0: no object
    flat = probabilities.flatten(1)
    sums = torch.zeros(structures, 2 * structures + 1, device=device)
    sums = sums.scatter_add(1, place.expand(structures, pixels), flat.clamp(min=1e-4).log())
    mean = sums[:, 1:] / size.clamp(min=1)
    whole = size >= _FEWEST
    median = size.gather(0, whole.sum(dim=0, keepdim=True) // 2)
    known = whole & (size <= _MOST * median)
    # An object that is smaller than usual, e.g. a fragment, counts less.
    weight = torch.where(known, (size / median.clamp(min=1)).clamp(max=1), 0.0)
    shares = _in_competition(mean.softmax(dim=0), weight)
    shares = torch.cat([torch.zeros_like(shares[:, :1]), shares], dim=1)
    known = torch.cat([torch.zeros_like(known[:1]), known])
    shared = any_structure.flatten() * shares[:, place]
    return torch.where(known[place], shared, flat).reshape(probabilities.shape)


def _connected(mask: Tensor) -> Tensor:
    """Whole numbers (H, W) of the connected parts of a mask, the same in each part; 0 outside."""
    numbers = torch.arange(1, mask.numel() + 1, device=mask.device).reshape(mask.shape) * mask
    for _ in range(_CONNECTING):
        numbers = _largest_nearby(numbers) * mask
        # The number is that of a pixel, whose own number may have grown meanwhile.
        chain = torch.cat([torch.zeros_like(numbers.flatten()[:1]), numbers.flatten()])
        numbers = chain[numbers]
    return numbers


def _grown(numbers: Tensor, mask: Tensor) -> Tensor:
    """Numbers of the parts, with the pixels of the mask around them."""
    for _ in range(_MARGIN):
        numbers = torch.where((numbers == 0) & mask, _largest_nearby(numbers), numbers)
    return numbers


def _largest_nearby(numbers: Tensor) -> Tensor:
    # float32 counts the pixels of 4096 x 4096.
    return max_pool2d(numbers[None, None].float(), 3, 1, 1)[0, 0].long()


def _in_competition(shares: Tensor, weight: Tensor) -> Tensor:
    """Shares (S, objects) of the structures in each object, such that a structure does not belong to several objects.

    Alternating normalisation (Sinkhorn and Knopp, 1967) of rows whose sum, weighted by object, is more than 1, and of
    all columns.
    """
    for _ in range(_COMPETING):
        shares = shares / (shares * weight).sum(dim=1, keepdim=True).clamp(min=1)
        shares = shares / shares.sum(dim=0, keepdim=True).clamp(min=1e-6)
    return shares
