"""A card whose streams note what they are told, and a model of few layers for it."""

from contextlib import nullcontext

import comfy.ops
import torch
from torch import nn

from lora2_core.host.training.ahead import ALIGNED

WIDTH = 128
SIZE = WIDTH * WIDTH * 4 + ALIGNED  # bytes of one layer of `Model`, with its bias


class Stream:
    """A stream that notes what it is told; its events are numbers."""

    def __init__(self, card: "Card", name: str):
        self.card, self.name = card, name

    def record_event(self) -> int:
        self.card.events += 1
        self.card.told.append((self.name, "records", self.card.events))
        return self.card.events

    def wait_event(self, event: int) -> None:
        self.card.told.append((self.name, "waits", event))

    def wait_stream(self, other: "Stream") -> None:
        self.card.told.append((self.name, "waits for", other.name))

    def synchronize(self) -> None:
        self.card.told.append((self.name, "ends"))


class Card:
    """A device whose copies are made at once: the earliest time at which they could be."""

    def __init__(self) -> None:
        self.told, self.events = [], 0
        self.main = Stream(self, "main")

    def Stream(self, device: torch.device) -> "Stream":  # noqa: N802
        return Stream(self, "side")

    def current_stream(self, device: torch.device) -> Stream:
        return self.main

    def stream(self, stream: Stream):
        return nullcontext()


class Model(nn.Module):
    """Layers in a row, of which some are used twice."""

    def __init__(self, count: int = 6):
        super().__init__()
        self.layers = nn.ModuleList(
            comfy.ops.manual_cast.Linear(WIDTH, WIDTH) for _ in range(count)
        )
        self.norm = comfy.ops.manual_cast.LayerNorm(WIDTH)
        self.order = [*range(count), 1]
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / WIDTH**0.5
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in self.order:
            x = self.norm(self.layers[number](x))
        return x
