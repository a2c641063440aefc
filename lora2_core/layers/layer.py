"""One adapted layer: a low-rank path beside a frozen Linear or Conv2d.

y = W0 x + B Lambda A x with A = lora_down [capacity, in] and B = lora_up [out, capacity]. Only the
first `rank` positions are used: Lambda is zero beyond them. The capacity is the rank rounded up to
a multiple of a tile. So tensors rarely change their size while ranks move, and little is computed
or stored beyond the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ..adapter.kernels import as_kernels, as_point_kernels
from .joined import Frozen, JoinedConvolution, JoinedLinear, Lent, Pair
from .moments import Moments, exchanged, turned

# rank positions: the matrix units of GPUs compute in multiples of 8
TILE = 8


def is_adaptable(module: nn.Module) -> bool:
    """Returns whether a layer can have an adapter: a Conv2d without groups, or a Linear, which is
    known by its in_features and out_features, since hosts have classes of their own.
    """
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def with_path(module: nn.Module, x: Tensor, output: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Returns a layer's output + up (down x), computed in the dtype of down and up."""
    dtype, x = down.dtype, x.to(down.dtype)
    if hasattr(module, "kernel_size"):
        # the module's own stride, dilation, padding and padding mode
        kernels = as_kernels(down, module.kernel_size)
        hidden = nn.Conv2d._conv_forward(module, x, kernels, None)
        return output + F.conv2d(hidden, as_point_kernels(up)).to(output.dtype)
    if output.dtype != dtype:
        return output + F.linear(F.linear(x, down), up).to(output.dtype)
    hidden = x.reshape(-1, x.shape[-1]) @ down.T
    return torch.addmm(output.reshape(-1, output.shape[-1]), hidden, up.T).view(output.shape)


class Component:
    """The path of one layer: lora_up [fan_out, capacity] and lora_down [capacity, fan_in]. For a
    convolution fan_in is input channels times the size of the kernel.

    keeps: whether the capacity stays while the rank falls.
    moved: how often a parameter of any layer became another one, or its memory did. Where nothing
    has moved, nobody needs to look at each of hundreds.
    """

    moved = 0

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
        self.rank, self.off, self.keeps = 0, False, False
        self.handle: RemovableHandle | None = None
        self.joined: Callable | None = None
        self.frozen: Frozen | None = None
        self.replaced: list[Callable] = []  # the module's own forward, where it had one

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("lora_up", "lora_down"):
            Component.moved += 1
        super().__setattr__(name, value)

    @property
    def cost(self) -> int:
        """Returns the number of parameters of one rank position."""
        return self.fan_in + self.fan_out

    @property
    def capacity(self) -> int:
        """Returns how many rank positions the tensors hold."""
        return self.lora_down.shape[0]

    def capacity_for(self, rank: int) -> int:
        """Returns the capacity that this rank needs, or the one there is where that is kept. Where
        that is too little, it doubles: what was compiled for it is then compiled again.
        """
        needed = min(-(-rank // self.tile) * self.tile, self.max_rank)
        if not self.keeps or needed == self.capacity:
            return needed
        if needed < self.capacity:
            return self.capacity
        return min(max(needed, 2 * self.capacity), self.max_rank)

    def allocate(self, rank: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Makes the capacity the rank rounded up to a multiple of the tile. If it changes, there
        are new parameters: the positions that stay keep their values and the optimizer's moments,
        others are zero.
        """
        capacity = self.capacity_for(rank)
        if capacity != self.capacity:
            self.lora_down = exchanged(self.lora_down, capacity, 0, optimizer)
            self.lora_up = exchanged(self.lora_up, capacity, 1, optimizer)

    def hook(self, weights: Callable[[], Tensor | None]) -> None:
        """Adds the path to the module's output from now on.

        weights: gives the diagonal of Lambda, at least `capacity` long and zero beyond `rank`, or
        None where Lambda is 1.
        """

        def after(_module: nn.Module, args: tuple, named: dict, output: Tensor) -> Tensor:
            if self.off or not self.rank:
                return output
            x = args[0] if args else next(iter(named.values()))  # its only input
            return self.add_path(x, output, weights())

        self.handle = self.module.register_forward_hook(after, with_kwargs=True)

    def join(
        self,
        frozen: Frozen,
        at: Callable[[Tensor], Pair],
        compute: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Computes the module and the path as one operation from now on, as `hook` would but for
        rounding.

        at: gives the pair of the path in this pass for the input that it gets. compute: gives the
        output for it where not `alone` does.
        """

        linear = self.kernel is None  # one suits always

        def forward(*args: Any, **named: Any) -> Tensor:
            if self.off or not self.rank:
                return frozen(*args, **named)
            x = args[0] if args else next(iter(named.values()))  # its only input
            suits = len(args) + len(named) == 1 and (linear or frozen.suits())
            if suits and compute is not None:
                return compute(x)
            pair = at(x)
            if suits:
                return self.alone(pair, pair.origin, x)
            output = frozen(*args, **named)
            return with_path(self.module, x, output, *Lent.apply(pair.origin, pair))

        self.replaced = [vars(self.module)["forward"]] if "forward" in vars(self.module) else []
        self.frozen = frozen
        self.module.forward, self.joined = forward, forward

    def alone(self, pair: Pair, origin: Tensor, x: Tensor) -> Tensor:
        """Returns the output of the module and the path, as one operation."""
        together = JoinedLinear if self.kernel is None else JoinedConvolution
        frozen = cast(Frozen, self.frozen)  # as long as it is joined
        if torch.is_grad_enabled():
            return together.apply(x, origin, pair, frozen)
        return together.compute(x, pair, frozen)[0]

    def unhook(self) -> None:
        """Removes the path; the module is as it was."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
        if self.joined is not None:
            del self.module.forward
            for forward in self.replaced:
                self.module.forward = forward
            self.joined = self.frozen = None

    def add_path(self, x: Tensor, output: Tensor, weights: Tensor | None) -> Tensor:
        """Returns output + B (Lambda A) x. An fp16 input is computed in fp32, since (Lambda A) x
        can overflow fp16 with the paper's init.
        """
        dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
        down = self.lora_down
        if weights is not None:
            down = down * weights[: self.capacity, None]
        return with_path(self.module, x, output, down.to(dtype), self.lora_up.to(dtype))

    @torch.no_grad()
    def initialise(
        self, start: int, stop: int, std: float, generator: torch.Generator, *, random_up: bool
    ) -> None:
        """Fills the positions [start, stop): lora_down with normal numbers of this standard
        deviation, lora_up with zeros, or with such numbers too if `random_up`.
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
        """Makes the used rows of lora_down orthogonal, all with the root mean square of their
        norms. No two positions then start alike, and turning them later is well conditioned.
        """
        used = self.lora_down[: self.rank]
        used.copy_(torch.linalg.qr(used.T)[0].T * (used.norm() / math.sqrt(self.rank)))

    @torch.no_grad()
    def grams(self, weights: Tensor) -> Tensor:
        """Returns B^T B and (Lambda A)(Lambda A)^T of the used positions, fp64 [2, rank, rank]."""
        up = self.lora_up[:, : self.rank].double()
        down = (self.lora_down[: self.rank] * weights[: self.rank, None]).double()
        return torch.stack([up.T @ up, down @ down.T])

    @torch.no_grad()
    def rotate(self, weights: Tensor, turn: Tensor, inverse: Tensor, moments: Moments) -> None:
        """Turns the used positions to the singular basis of the update, which itself stays.

        turn, inverse: singular_turn of the `grams`. lora_down gets orthogonal rows, all with the
        root mean square of their norms; lora_up carries the singular values, largest first.
        moments: gives the optimizer's moments of a parameter, which turn with it; mean squares turn
        as if the gradients of different positions were uncorrelated.
        """
        r = self.rank
        weight = weights[:r].double()
        length = self.lora_down[:r].double().norm() / math.sqrt(r)
        # B' = B inv and Lambda A' = fwd Lambda A. Gradients of lora_up turn as Lambda A does,
        # gradients of lora_down as B does
        fwd, inv = (length * weight)[:, None] * turn, inverse / (length * weight)
        down_gradients = weight[:, None] * inv.T / weight
        down_values = fwd * weight / weight[:, None]
        up, down = self.lora_up[:, :r], self.lora_down[:r]
        up.copy_(up.double() @ inv)
        down.copy_(down_values @ down.double())
        for name, moment in moments(self.lora_up).items():
            moment[:, :r] = moment[:, :r] @ turned(name, fwd, inv.T, moment).T
        for name, moment in moments(self.lora_down).items():
            moment[:r] = turned(name, down_gradients, down_values, moment) @ moment[:r]

    @torch.no_grad()
    def folded(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns copies of lora_up [out, rank] and of Lambda lora_down [rank, fan_in], whose
        product is the update.
        """
        down = self.lora_down[: self.rank] * weights[: self.rank, None]
        return self.lora_up[:, : self.rank].clone(), down.clone()
