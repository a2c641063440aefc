"""Small things that the pure tests share: a model with planted ranks, and adapters to look at."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

import lora2_core as lora2


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]


class Planted(nn.Module):
    """Linear layers l0, l1, ... that lack an update of a known rank: the task is to learn it.

    noise: standard deviation of what the wanted outputs hold beyond the update.
    """

    def __init__(self, ranks: Sequence[int], width: int = 32, seed: int = 0, noise: float = 0.0):
        super().__init__()
        self.noise = noise
        generator = torch.Generator().manual_seed(seed)
        self.planted: list[Tensor] = []
        for i, rank in enumerate(ranks):
            layer = nn.utils.skip_init(nn.Linear, width, width, bias=False)
            layer.weight.data = torch.randn(width, width, generator=generator) / width**0.5
            layer.requires_grad_(False)
            self.add_module(f"l{i}", layer)
            left, right = (orthonormal(width, rank, generator) for _ in range(2))
            self.planted.append(3 * left @ right.T)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Mean squared distance to the outputs with the planted updates, over layers."""
        losses = []
        for layer, delta in zip(self.children(), self.planted, strict=True):
            x = torch.randn(16, layer.in_features, generator=generator)
            wanted = x @ (layer.weight + delta).T
            if self.noise:
                wanted = wanted + self.noise * torch.randn(wanted.shape, generator=generator)
            losses.append((layer(x) - wanted).square().mean())
        return torch.stack(losses).mean()


def trained(mode: str = "adaptive", steps: int = 8, seed: int = 0, **settings) -> lora2.Adapters:
    """Adapters of a Planted model after a few steps; still attached."""
    model = Planted([1, 4, 2], width=16)
    chosen = {"target_rank": 4, "max_rank": 16} | settings
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode=mode, **chosen), seed=seed)
    for _ in lora2.train(adapters, model.loss, lora2.TrainSettings(steps, 1e-2, seed)):
        pass
    return adapters


# name -> (out, fan_in, rank, kernel): costs differ, so energy per parameter is no mere energy
SHAPES = {
    "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q": (24, 16, 9, None),
    "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k": (24, 40, 12, None),
    "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_out.0": (16, 16, 5, None),
    "diffusion_model.out.2": (4, 72, 3, (3, 3)),
}


def random_lora(shapes: Mapping = SHAPES, seed: int = 0) -> lora2.RankedLora:
    """Random layers, not in the singular basis."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, (rows, fan_in, rank, kernel) in shapes.items():
        up = torch.randn(rows, rank, generator=generator) * torch.logspace(0, -2, rank)
        layers[name] = lora2.LoraLayer(up, torch.randn(rank, fan_in, generator=generator), kernel)
    return lora2.RankedLora(layers)


@contextmanager
def global_randomness_untouched() -> Iterator[None]:
    """Fails when the block moves a global random state."""

    def states() -> list[Callable[[], object]]:
        return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]

    before = states()
    yield
    assert states() == before, "a global random state moved"


def metadata_of(path: Path) -> dict[str, str]:
    """The strings in a file's header."""
    with safe_open(path, "pt") as file:
        return file.metadata()


def foreign(path: Path, tensors: dict[str, Tensor], metadata: dict | None = None) -> Path:
    """A file as another program might write it."""
    safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata)
    return path
