"""A UNet of SDXL's shape in plain torch with random weights: what a step of training costs needs no
checkpoint and no host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """channels of the levels; transformers: depth at each level; blocks a level; head width."""

    channels: tuple[int, ...] = (320, 640, 1280)
    depths: tuple[int, ...] = (0, 2, 10)
    blocks: int = 2
    head: int = 64
    context: int = 2048


SDXL = Shape()
SMALL = Shape((32, 64), (0, 1), 1, 16, 48)


class Attention(nn.Module):
    def __init__(self, width: int, context: int, head: int):
        super().__init__()
        self.head = head
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (-1, self.head)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(y.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, shape: Shape):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, width, shape.head)
        self.attn2 = Attention(width, shape.context, shape.head)
        self.gate, self.out = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        a, b = self.gate(self.norm3(x)).chunk(2, -1)
        return x + self.out(a * F.gelu(b))


class Block(nn.Module):
    """A residual block and, where depth is not 0, transformer blocks."""

    def __init__(self, width_in: int, width: int, depth: int, shape: Shape):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, width_in), nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.proj_in, self.proj_out = (nn.Linear(width, width) for _ in range(2))
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, shape) for _ in range(depth)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        x = self.skip(x) + self.conv2(F.silu(self.norm2(y)))
        if not self.transformer_blocks:
            return x
        y = self.proj_in(x.flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            y = block(y, context)
        return x + self.proj_out(y).transpose(1, 2).unflatten(2, x.shape[2:])


class UNet(nn.Module):
    """Down, middle and up, with skips; four latent channels in and out."""

    def __init__(self, shape: Shape = SDXL):
        super().__init__()
        first, last = shape.channels[0], shape.channels[-1]
        self.conv_in = nn.Conv2d(4, first, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        width, skips = first, []
        for level, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True)):
            shrink = nn.Conv2d(width, width, 3, stride=2, padding=1) if level else nn.Identity()
            self.shrink.append(shrink)
            skips.append(width)
            for _ in range(shape.blocks):
                self.down.append(Block(width, channels, depth, shape))
                width = channels
                skips.append(width)
        self.middle = Block(last, last, shape.depths[-1], shape)
        for channels, depth in zip(shape.channels[::-1], shape.depths[::-1], strict=True):
            for _ in range(shape.blocks + 1):
                self.up.append(Block(width + skips.pop(), channels, depth, shape))
                width = channels
            self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.conv_out = nn.Conv2d(width, 4, 3, padding=1)
        self.blocks = shape.blocks

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, skips, blocks = self.conv_in(x), [], self.blocks
        for level, shrink in enumerate(self.shrink):
            x = shrink(x)
            skips.append(x)
            for block in self.down[level * blocks : (level + 1) * blocks]:
                x = block(x, context)
                skips.append(x)
        x = self.middle(x, context)
        for level, grow in enumerate(self.grow):
            for block in self.up[level * (blocks + 1) : (level + 1) * (blocks + 1)]:
                x = block(torch.cat([x, skips.pop()], 1), context)
            if level < len(self.grow) - 1:
                x = grow(F.interpolate(x, scale_factor=2.0))
        return self.conv_out(x)
