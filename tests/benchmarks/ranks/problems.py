"""Random problems of planted ranks: a seed draws a net and all else.

The net is parallel (each layer has inputs and outputs of its own) or deep (each layer reads the one
before). It lacks updates of known ranks and spectra, and its targets hold noise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 96, 128)
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# the lowest singular value is 10 to this power times the highest
SPECTRA = {"flat": 0.0, "gentle": -0.3, "steep": -0.8}
CLEAN_SAMPLES = 2048
# share of a run's samples that its end still averages over: the learning rate falls over so much
REMEMBERED = 0.5


@dataclass(frozen=True)
class Problem:
    """What a seed draws. shapes: (inputs, outputs) of each layer. ranks, falls: of the planted
    updates, whose singular values go from `scale` down to 10 ** fall times it. noise: of the
    targets, relative to what the updates change.
    """

    seed: int
    deep: bool
    shapes: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...]
    falls: tuple[float, ...]
    spectrum: str
    scale: float
    noise: float
    batch: int
    learning_rate: float
    steps: int

    @property
    def megabytes(self) -> float:
        """The size of the planted ranks, 2 bytes a parameter."""
        return sum(r * sum(s) for r, s in zip(self.ranks, self.shapes, strict=True)) * 2e-6


def draw(seed: int) -> Problem:
    """The problem of a seed."""
    pick = random.Random(seed)
    deep, count = pick.random() < 0.35, pick.choice([4, 6, 8])
    if deep:
        widths = [pick.choice(WIDTHS) for _ in range(count + 1)]
        shapes = list(zip(widths[:-1], widths[1:], strict=True))
    else:
        wide = [*WIDTHS, 192]
        shapes = [(pick.choice(wide), pick.choice(wide)) for _ in range(count)]
    ranks = tuple(min(pick.choice(RANKS), min(shape) // 2) for shape in shapes)
    spectrum = pick.choice([*SPECTRA, "mixed"])
    scale, noise, batch = pick.choice([0.3, 1.0, 3.0]), pick.choice([0.03, 0.1, 0.3]), 0
    batch, rate = pick.choice([16, 64]), pick.choice([1e-3, 3e-3])
    steps = pick.choice([800, 1500])
    names = [pick.choice(list(SPECTRA)) if spectrum == "mixed" else spectrum for _ in shapes]
    falls = tuple(SPECTRA[name] for name in names)
    return Problem(
        seed, deep, tuple(shapes), ranks, falls, spectrum, scale, noise, batch, rate, steps
    )


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]


class Net(nn.Module):
    """The net of a problem, `layers.0`, `layers.1`, ..., without the planted updates."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.problem = problem
        weights = torch.Generator().manual_seed(problem.seed)
        updates = torch.Generator().manual_seed(problem.seed + 1000)
        self.layers, self.planted = nn.ModuleList(), []
        parts = zip(problem.shapes, problem.ranks, problem.falls, strict=True)
        for (fan_in, fan_out), rank, fall in parts:
            layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=False)
            layer.weight.data = torch.randn(fan_out, fan_in, generator=weights) / fan_in**0.5
            self.layers.append(layer.requires_grad_(False))
            left = orthonormal(fan_out, rank, updates)
            right = orthonormal(fan_in, rank, updates)
            size = problem.scale * (0.5 if problem.deep else 1.0)
            self.planted.append(left * (size * torch.logspace(0, fall, rank)) @ right.T)
        change = self.distance(self.planted, None, torch.Generator().manual_seed(problem.seed + 5))
        self.sigma = problem.noise * change**0.5

    def inputs(self, generator: torch.Generator, count: int) -> list[Tensor]:
        shapes = self.problem.shapes[:1] if self.problem.deep else self.problem.shapes
        return [torch.randn(count, fan_in, generator=generator) for fan_in, _ in shapes]

    def forward(self, inputs: list[Tensor], updates: Sequence[Tensor] | None = None):
        """The outputs of the layers, or of a deep net; with updates: of the bare layers with
        these.
        """
        outputs = []
        for index, layer in enumerate(self.layers):
            x = inputs[0] if self.problem.deep else inputs[index]
            y = layer(x) if updates is None else F.linear(x, layer.weight + updates[index])
            outputs.append(y)
            inputs = [F.silu(y) + 0.1 * y] if self.problem.deep else inputs
        return inputs if self.problem.deep else outputs

    def loss(self, generator: torch.Generator) -> Tensor:
        """The mean squared error of a fresh batch."""
        inputs = self.inputs(generator, self.problem.batch)
        with torch.no_grad():
            wanted = [
                y + self.sigma * torch.randn(y.shape, generator=generator)
                for y in self(inputs, self.planted)
            ]
        return error(self(inputs), wanted)

    @torch.no_grad()
    def distance(self, first, second, generator: torch.Generator) -> float:
        """The mean squared distance of the outputs with two lists of updates; None: with none."""
        inputs = self.inputs(generator, CLEAN_SAMPLES)
        none = [torch.zeros_like(layer.weight) for layer in self.layers]
        return float(error(self(inputs, first or none), self(inputs, second or none)))

    @torch.no_grad()
    def clean_error(self) -> float:
        """The mean squared error of the net as it is now, on targets without noise."""
        inputs = self.inputs(torch.Generator().manual_seed(77), CLEAN_SAMPLES)
        return float(error(self(inputs), self(inputs, self.planted)))

    def visible(self) -> list[int]:
        """The planted rank of each layer down to the noise floor of the data.

        A position lies above the floor while the error without it is more than what its numbers
        cost when they are fitted to REMEMBERED of the run's samples: sigma^2 for each number,
        sample and output.
        """
        p = self.problem
        samples = REMEMBERED * p.steps * p.batch
        found = []
        for row, (shape, rank) in enumerate(zip(p.shapes, p.ranks, strict=True)):
            outputs = p.shapes[-1][1] if p.deep else shape[1] * len(p.shapes)
            floor = self.sigma**2 * sum(shape) / (samples * outputs)
            left, values, right = torch.linalg.svd(self.planted[row], full_matrices=False)
            kept = rank
            while kept and self.error_without(row, left, values, right, kept - 1) <= floor:
                kept -= 1
            found.append(kept)
        return found

    def error_without(
        self, row: int, left: Tensor, values: Tensor, right: Tensor, position: int
    ) -> float:
        """The clean error of the planted updates without a position of a layer, whose singular
        vectors and values these are.
        """
        without = list(self.planted)
        part = values[position] * torch.outer(left[:, position], right[position])
        without[row] = self.planted[row] - part
        return self.distance(without, self.planted, torch.Generator().manual_seed(78))


def error(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    pairs = list(zip(outputs, wanted, strict=True))
    return torch.stack([(a - b).square().mean() for a, b in pairs]).mean()
