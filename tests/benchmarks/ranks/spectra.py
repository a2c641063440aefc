"""Ranks given before any training, by the spectrum of what is known: of each layer's inputs, or of
its weights. The positions of all layers are taken by the share of their layer's variance that they
explain, until the size is full (EVA, arXiv 2410.07170), or by that share per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora2_core.adapter.allocation import share_out
from tests.benchmarks.held_out import Pictures, held_out_loss


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """Returns what a layer's weight is multiplied with, (positions, fan_in)."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)
    shape = layer.kernel_size, layer.dilation, layer.padding, layer.stride
    return F.unfold(x, *shape).mT.flatten(0, 1)


def of_inputs(model, layers: Mapping[str, nn.Module], pictures: Pictures) -> list[Tensor]:
    """Returns the variance of each layer's inputs along each of their principal directions,
    falling, over all training pictures at ten noise levels.
    """
    moments: dict[str, list] = {}

    def see(name: str, layer: nn.Module, arguments: tuple) -> None:
        x = patches(layer, arguments[0].detach()).double()
        count, total, squares = moments.get(name, (0, 0.0, 0.0))
        moments[name] = [count + len(x), total + x.sum(0), squares + x.T @ x]

    with ExitStack() as stack:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda m, a, name=name: see(name, m, a))
            stack.callback(hook.remove)
        held_out_loss(model, pictures)
    spectra = []
    for name in layers:
        count, total, squares = moments[name]
        mean = total / count
        spectrum = torch.linalg.eigvalsh(squares / count - torch.outer(mean, mean))
        spectra.append(spectrum.flip(0).clamp(min=0))
    return spectra


def of_weights(layers: Mapping[str, nn.Module]) -> list[Tensor]:
    """Returns the squared singular values of each layer's weight, falling."""
    return [torch.linalg.svdvals(m.weight.flatten(1).double()).square() for m in layers.values()]


def ranks_by(
    spectra: Sequence[Tensor],
    layers: Mapping[str, nn.Module],
    parameters: float,
    *,
    per_parameter: bool,
) -> dict[str, int]:
    """Returns the rank of each layer, 0 among them, within so many parameters."""
    shapes = [m.weight.flatten(1).shape for m in layers.values()]
    worths = []
    for spectrum, shape in zip(spectra, shapes, strict=True):
        share = (spectrum / spectrum.sum())[: min(shape)]
        worths.append(share if per_parameter else share * sum(shape))
    ranks = share_out(worths, [sum(shape) for shape in shapes], parameters)
    return dict(zip(layers, ranks, strict=True))
