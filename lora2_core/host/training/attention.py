"""Attention that has gradients, whatever the host was started with.

SageAttention returns values without a graph: what lies before it would never learn, and nobody
would see it. FlashAttention, as the host wraps it, has no formula for its backward pass. Each can
be the host's own choice, or that of an override which another node gave to the model. So nothing
here goes by names: every way of computing is tried once on every kind of inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps

import comfy.ldm.modules.attention
import torch
from torch import Tensor

from ...saying import log
from .memory import out_of_memory

# under this key of transformer_options, the host finds what all calls of attention go through
OVERRIDE = "optimized_attention_override"
# the names by which models know the host's attention; most import it into modules of their own
NAMES = ("optimized_attention", "optimized_attention_masked")
Attend = Callable[..., Tensor]


def kind_of(value: object) -> object:
    """Returns what tells apart inputs on which kernels may differ, something that has a hash."""
    if torch.is_tensor(value):
        return value.shape, value.dtype, value.device
    return value if isinstance(value, (bool, int, float, str)) else type(value)


def has_gradients(attend: Attend, args: tuple, named: dict) -> bool:
    """Returns whether all floating-point inputs of attention get a gradient: tries it on copies."""
    leaves: list[Tensor] = []

    def leaf(value):
        if not torch.is_tensor(value) or not value.is_floating_point():
            return value
        value = value.clone() if value.is_inference() else value.detach()
        if len(leaves) == 3:  # q, k and v come first; masks need none
            return value
        leaves.append(value.requires_grad_())
        return leaves[-1]

    # a checkpoint around this would compute everything before it again
    apart = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with torch.inference_mode(False), torch.enable_grad(), apart:
        out = attend(*map(leaf, args), **{name: leaf(value) for name, value in named.items()})
        if not out.requires_grad:
            return False
        try:
            found = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            return False
    return all(gradient is not None for gradient in found)


class AttentionWithGradients:
    """Chooses, for every kind of inputs, the first way to compute attention that has gradients."""

    def __init__(self) -> None:
        self.chosen: dict[tuple, int] = {}
        self.said: set[str] = set()

    def attend(self, ways: list[tuple[object, Attend]], args: tuple, named: dict) -> Tensor:
        """Returns attention as the first of the ways computes it that has gradients; the last one
        is not tried. `ways`: something that each is known by, and the function. What is compiled is
        computed in the last way, torch's own.
        """
        if torch.compiler.is_compiling():
            return ways[-1][1](*args, **named)
        kinds = (*map(kind_of, args), *((n, kind_of(v)) for n, v in sorted(named.items())))
        key = (*(known for known, _ in ways), *kinds)
        if (index := self.chosen.get(key)) is None:
            index = next(
                (i for i, (_, w) in enumerate(ways[:-1]) if has_gradients(w, args, named)),
                len(ways) - 1,
            )
            self.chosen[key] = index
            if index:
                self.say(ways[0][0])
        return ways[index][1](*args, **named)

    def say(self, left_out: object) -> None:
        """Logs once what has no gradients."""
        name = getattr(left_out, "__name__", type(left_out).__name__)
        if name not in self.said:
            self.said.add(name)
            log.info("The attention %s has no gradients: training computes with torch's.", name)

    def options(self, options: dict) -> dict:
        """Returns a copy of transformer_options in which attention has gradients. An override that
        is there goes on to be used where it has them.
        """
        return options | {OVERRIDE: partial(self.override, options.get(OVERRIDE))}

    def override(self, others: Callable | None, func: Attend, *args, **named) -> Tensor:
        """Computes attention as the host asks an `optimized_attention_override` for. `others`: the
        override that was there before, None without one.
        """
        torchs = comfy.ldm.modules.attention.attention_pytorch
        ways: list[tuple[object, Attend]] = [(func, func), (torchs, torchs)]
        if others is not None:
            over = [((others, known), partial(others, attend)) for known, attend in ways]
            ways = [*over, ways[1]]
        return self.attend(ways, args, named)

    def bound(self, func: Attend) -> Attend:
        """Returns what takes the place of the host's attention in a module that has it by name."""
        torchs = comfy.ldm.modules.attention.attention_pytorch

        @wraps(func)
        def attention(*args, **named):
            if OVERRIDE in (named.get("transformer_options") or ()):
                return func(*args, **named)  # which asks the override
            return self.attend([(func, func), (torchs, torchs)], args, named)

        return attention

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Puts attention with gradients into all modules that have the host's by name, inside. The
        calls of text encoders, and of some models, pass no transformer_options.
        """
        replaced = []
        for module in list(sys.modules.values()):
            table = getattr(module, "__dict__", None)
            for name in NAMES if isinstance(table, dict) else ():
                if callable(func := table.get(name)):
                    replaced.append((table, name, func))
        try:
            for table, name, func in replaced:
                table[name] = self.bound(func)
            yield
        finally:
            for table, name, func in replaced:
                table[name] = func
