"""Low-rank changes of linear layers (LoRA, arXiv 2106.09685), for adapting SAM's image encoder."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize


class _LowRank(nn.Module):
    """weight -> weight + b a; none at first, for b is 0."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        first = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        self.a = nn.Parameter(first.to(layer.weight))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank).to(layer.weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.b @ self.a


def attention_layers(encoder: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that belong to an encoder's attention, by name."""
    return {
        f"{name}.{child}": layer
        for name, module in encoder.named_modules()
        if "Attention" in type(module).__name__
        for child, layer in module.named_children()
        if isinstance(layer, nn.Linear)
    }


def add_low_rank(encoder: nn.Module, rank: int, seed: int) -> None:
    """Add trainable changes of this rank to an encoder's attention, in place. Only they take gradients."""
    generator = torch.Generator().manual_seed(seed)
    for layer in attention_layers(encoder).values():
        parametrize.register_parametrization(layer, "weight", _LowRank(layer, rank, generator), unsafe=True)


def low_rank_weights(encoder: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """The changes on the CPU: ``<prefix><layer>.lora_a`` (rank, inputs) and ``.lora_b`` (outputs, rank)."""
    weights = {}
    for name, module in encoder.named_modules():
        if isinstance(module, _LowRank):
            layer = prefix + name.removesuffix(".parametrizations.weight.0")
            weights[f"{layer}.lora_a"] = module.a.detach().clone().cpu()
            weights[f"{layer}.lora_b"] = module.b.detach().clone().cpu()
    return weights
