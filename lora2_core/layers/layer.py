"""One adapted component: a low-rank path beside a frozen Linear or Conv2d, by a forward hook.

y = W0 x + B Lambda A x with A = lora_down (capacity x in), B = lora_up (out x capacity), of which
the first `rank` positions are used: Lambda is zero beyond them. The capacity is the rank rounded up
to whole tiles, so that tensors rarely change their size while ranks move, and nothing is computed
or stored for ranks that are far away.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .moments import Moments, exchanged, turned

TILE = 8  # positions; what matrix units like


def is_adaptable(module: nn.Module) -> bool:
    """Returns conv2d without groups, or whatever has in_features and out_features: hosts have a
    Linear of their own.
    """
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return hasattr(module, "in_features") and hasattr(module, "out_features")


class Component:
    """lora_up [out, capacity] and lora_down [capacity, fan_in] of one module; fan_in counts a
    kernel's taps.
    """

    def __init__(self, module: nn.Module, max_rank: int, device: torch.device, tile: int = TILE):
        self.module, self.tile = module, tile
        self.kernel: tuple[int, int] | None = None
        if hasattr(module, "kernel_size"):
            self.kernel = tuple(module.kernel_size)
            self.channels = (module.in_channels, module.out_channels)
        else:
            self.channels = (module.in_features, module.out_features)
        self.fan_in = self.channels[0] * (self.kernel[0] * self.kernel[1] if self.kernel else 1)
        self.fan_out = self.channels[1]
        self.max_rank = min(max_rank, self.fan_in, self.fan_out)
        self.lora_down = nn.Parameter(torch.zeros(0, self.fan_in, device=device))
        self.lora_up = nn.Parameter(torch.zeros(self.fan_out, 0, device=device))
        self.rank = 0
        self.handle: RemovableHandle | None = None

    @property
    def cost(self) -> int:
        """Returns parameters of one rank position."""
        return self.fan_in + self.fan_out

    @property
    def capacity(self) -> int:
        """Returns rank positions that the tensors hold."""
        return len(self.lora_down)

    @torch.no_grad()
    def allocate(self, rank: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Room for `rank` positions in whole tiles: new parameters where that is another capacity,
        with the values, and the optimizer's moments, of the positions that stay, and zeros else.
        """
        capacity = min(-(-rank // self.tile) * self.tile, self.max_rank)
        if capacity != self.capacity:
            self.lora_down = exchanged(self.lora_down, capacity, 0, optimizer)
            self.lora_up = exchanged(self.lora_up, capacity, 1, optimizer)

    def hook(self, weights: Callable[[], Tensor | None]) -> None:
        """Adds the path to the module's output; `weights()` gives the diagonal of Lambda, at least
        `capacity` long and zero beyond `rank`, or None where it is 1.
        """

        def after(_module: nn.Module, args: tuple, named: dict, output: Tensor) -> Tensor:
            if not self.rank:
                return output
            x = args[0] if args else next(iter(named.values()))  # a layer's only input
            return self.add_path(x, output, weights())

        self.handle = self.module.register_forward_hook(after, with_kwargs=True)

    def unhook(self) -> None:
        """Takes the path away; the module is as it was."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    def add_path(self, x: Tensor, output: Tensor, weights: Tensor | None) -> Tensor:
        """Returns output + B (Lambda A) x; fp16 inputs run in fp32, since (Lambda A) x of the
        paper's init can overflow fp16.
        """
        dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
        down, up = self.lora_down, self.lora_up.to(dtype)
        if weights is not None:
            down = down * weights[: self.capacity, None]
        x, down = x.to(dtype), down.to(dtype)
        if self.kernel is not None:
            kernels = down.view(-1, self.channels[0], *self.kernel)
            # the module's own stride, dilation, padding and padding mode
            hidden = nn.Conv2d._conv_forward(self.module, x, kernels, None)
            return output + F.conv2d(hidden, up[:, :, None, None]).to(output.dtype)
        if output.dtype != dtype:
            return output + F.linear(F.linear(x, down), up).to(output.dtype)
        hidden = x.reshape(-1, self.fan_in) @ down.T
        return torch.addmm(output.reshape(-1, self.fan_out), hidden, up.T).view(output.shape)

    @torch.no_grad()
    def initialise(
        self, start: int, stop: int, std: float, generator: torch.Generator, *, random_up: bool
    ) -> None:
        """Positions [start, stop), inside the capacity: lora_down random normal, lora_up zero (or,
        as in the paper's growth, random).
        """
        shape = (stop - start, self.fan_in)
        self.lora_down[start:stop] = torch.randn(shape, generator=generator).mul_(std)
        if random_up:
            shape = (self.fan_out, stop - start)
            self.lora_up[:, start:stop] = torch.randn(shape, generator=generator).mul_(std)
        else:
            self.lora_up[:, start:stop] = 0

    @torch.no_grad()
    def orthogonalise(self) -> None:
        """Makes the used rows of lora_down orthogonal and all of the same norm, the mean one: no
        two positions then begin alike, and turning them later is well conditioned.
        """
        used = self.lora_down[: self.rank]
        used.copy_(torch.linalg.qr(used.T)[0].T * (used.norm() / math.sqrt(self.rank)))

    @torch.no_grad()
    def grams(self, weights: Tensor) -> Tensor:
        """Returns b^T B and (Lambda A)(Lambda A)^T of the used positions, fp64 [2, rank, rank]."""
        up = self.lora_up[:, : self.rank].double()
        down = (self.lora_down[: self.rank] * weights[: self.rank, None]).double()
        return torch.stack([up.T @ up, down @ down.T])

    @torch.no_grad()
    def rotate(self, weights: Tensor, turn: Tensor, inverse: Tensor, moments: Moments) -> None:
        """Turns the used positions to the singular basis of the update, which stays the same, by
        singular_turn of the grams.

        lora_down gets orthogonal rows, all of its mean row norm; lora_up carries the singular
        values, in falling order. `moments(parameter)` gives what an optimizer remembers of a
        parameter, which turns with it, mean squares as if gradients of positions were uncorrelated.
        """
        r = self.rank
        weight = weights[:r].double()
        length = self.lora_down[:r].double().norm() / math.sqrt(r)
        # B' = B back and Lambda A' = there Lambda A; gradients of lora_up turn as Lambda A does,
        # those of lora_down as B does
        there, back = (length * weight)[:, None] * turn, inverse / (length * weight)
        down_there = weight[:, None] * back.T / weight
        down_turn = there * weight / weight[:, None]
        up, down = self.lora_up[:, :r], self.lora_down[:r]
        up.copy_(up.double() @ back)
        down.copy_(down_turn @ down.double())
        for name, moment in moments(self.lora_up).items():
            moment[:, :r] = moment[:, :r] @ turned(name, there, back.T, moment).T
        for name, moment in moments(self.lora_down).items():
            moment[:r] = turned(name, down_there, down_turn, moment) @ moment[:r]

    @torch.no_grad()
    def rescale(self, ratio: Tensor, moments: Moments) -> None:
        """Lambda has become `ratio` [capacity] times what it was: lora_up takes up the change, so
        that the update stays the same; what an optimizer remembers of it follows.
        """
        self.lora_up /= ratio
        for name, moment in moments(self.lora_up).items():
            moment *= turned(name, ratio, 1 / ratio, moment)

    @torch.no_grad()
    def folded(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (lora_up [out, rank], lora_down [rank, fan_in]) with Lambda folded in, copies:
        their product is the update.
        """
        down = self.lora_down[: self.rank] * weights[: self.rank, None]
        return self.lora_up[:, : self.rank].clone(), down.clone()
