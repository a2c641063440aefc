"""What a step keeps for its backward pass, found by a forward pass that computes nothing: all
weights and inputs are on torch's device "meta", where tensors have shapes and no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...layers.folding import path_dtype
from ...layers.joined import Frozen, Pair
from ...layers.layer import Component
from ...layers.storage import storage_of
from ...layers.unit import Unit
from ...saying import log
from .examples import UNFIT, Example, collate
from .gradient_checkpointing import repeated_blocks
from .kernel_shapes import ShapesOfKernels, torchs_attention
from .objective import DEFAULT, denoising_loss, step_options, weights_of
from .valueless import META, on_meta, without_values

GRADIENT = 4  # bytes of each gradient of lora_up and lora_down at the end, which is fp32
# what the gradients of a block's activations take, as a share of these: 0.4 to 0.6 of them where
# one block counts, with checkpointing (Flux, Qwen-Image, Z-Image)
OF_ACTIVATIONS = 0.5
ON_THE_WAY = 4  # blocks whose inputs are on the device with offload, to RAM or back


@dataclass
class Block:
    """Says what one repeated block keeps, in bytes. kept: all of its activations. inputs: what goes
    into it. gradients: of the weights of its paths, once its backward pass is over.
    """

    kept: int = 0
    inputs: int = 0
    gradients: int = 0


@dataclass
class Trial:
    """Says what a step keeps for its backward pass, in bytes.

    rank: of the paths, the highest. outside: outside of the repeated blocks. blocks: in the order
    of the forward pass. per_rank: of one rank position of all layers; it is part of the others.
    gradients: of all weights, in the dtype of the model. folded: the weights as paths compute with
    them, until the backward pass is over. at_the_end: gradients while they become fp32.
    overwrites: whether the model writes over values that its gradients need.
    """

    rank: int = 0
    outside: int = 0
    blocks: list[Block] = field(default_factory=list)
    per_rank: float = 0.0
    gradients: int = 0
    folded: int = 0
    at_the_end: int = 0
    overwrites: bool = False

    def scaled(self, share: float) -> Trial:
        """Returns the trial at `share` times the rank: gradients are in proportion to it, and of
        the activations those of rank positions.
        """
        less = (1 - share) * self.per_rank * self.rank
        kept = sum(block.kept for block in self.blocks) or 1
        blocks = [
            Block(int(b.kept - less * b.kept / kept), b.inputs, int(share * b.gradients))
            for b in self.blocks
        ]
        sizes = {n: int(share * getattr(self, n)) for n in ("gradients", "folded", "at_the_end")}
        return replace(self, blocks=blocks, rank=round(share * self.rank), **sizes)

    def with_activations(self, share: float) -> Trial:
        """Returns the trial with `share` times the activations."""
        blocks = [
            Block(int(share * b.kept), int(share * b.inputs), b.gradients) for b in self.blocks
        ]
        return replace(
            self, outside=int(share * self.outside), blocks=blocks, per_rank=share * self.per_rank
        )

    def peak(self, *, checkpointing: bool, offload: bool = False) -> int:
        """Returns the most that activations and gradients take at a time. With gradient
        checkpointing a block keeps what goes into it, and in its own backward pass everything;
        gradients of later blocks are there by then. With offload only what goes into it and the
        blocks before is on the device.
        """
        before = [block.inputs if checkpointing else block.kept for block in self.blocks]
        there = self.gradients - sum(b.gradients for b in self.blocks)
        most = 0
        for number in range(len(self.blocks), 0, -1):
            block = self.blocks[number - 1]
            first = max(0, number - ON_THE_WAY) if offload else 0
            kept = sum(before[first:number]) + (block.kept if checkpointing else 0)
            kept += int(OF_ACTIVATIONS * block.kept)
            most = max(most, self.outside + kept + there)
            there += block.gradients
        return max(self.folded + max(most, self.outside + there), self.at_the_end)


def tensors_in(values: Iterable) -> Iterator[Tensor]:
    """Yields the tensors of arguments, which may hold more of them in lists."""
    for value in values:
        if torch.is_tensor(value):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def value_of(tensor: Tensor) -> tuple[int, int]:
    """Returns what tells a value from others while it lives: its memory, and how often that was
    written into.
    """
    return storage_of(tensor), tensor._version


class Kept:
    """Counts what autograd keeps, each value once, by the block that keeps it first. Where a value
    is written over, what is kept of it is a copy.
    """

    def __init__(self, weights: set[int]):
        self.trial, self.weights, self.block = Trial(), weights, None
        self.seen: set[tuple[int, int]] = set()
        self.alive: list[Tensor] = []  # so that no memory gets the number of another one
        self.packed: list[tuple[Tensor, int]] = []  # with their versions

    def pack(self, tensor: Tensor) -> Tensor:
        """Counts a tensor that autograd keeps."""
        self.packed.append((tensor, tensor._version))
        if (size := self.new(tensor)) and self.block is not None:
            self.block.kept += size
        else:
            self.trial.outside += size
        return tensor

    def new(self, tensor: Tensor) -> int:
        """Returns the bytes of a tensor's memory, 0 where it was counted before."""
        if not self.counts(tensor):
            return 0
        self.seen.add(value_of(tensor))
        self.alive.append(tensor)
        return tensor.untyped_storage().nbytes()

    def counts(self, tensor: Tensor) -> bool:
        """Returns whether a tensor holds no weight, and no value that was counted before."""
        value = value_of(tensor)
        return value[0] not in self.weights and value not in self.seen

    def enter(self, gradients: int, _module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Begins a block."""
        given = tensors_in((args, list(kwargs.values())))
        sizes = {value_of(t): t.untyped_storage().nbytes() for t in given if self.counts(t)}
        self.block = Block(inputs=sum(sizes.values()), gradients=gradients)
        self.trial.blocks.append(self.block)

    def leave(self, *_: object) -> None:
        """Ends a block."""
        self.block = None


def try_shapes(
    models: Sequence[nn.Module],
    inner,
    frozen: Callable[[nn.Module], Frozen | None],
    batches: Sequence[list[Example]],
    layers: Mapping[str, nn.Module],
    ranks: Mapping[str, int],
    options: dict,
    settings=DEFAULT,
) -> Trial | None:
    """Returns what a step on these batches keeps, with paths of these ranks beside the layers; None
    where the model can't compute without values. `models` are all whose layers are trained; they
    are as they were afterwards. `frozen` says how a layer computes, as in `attach`.
    """
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            weights = set()
            for model in models:
                weights |= stack.enter_context(without_values(model))
            kept = Kept(weights)
            per_rank = watched_paths(layers, ranks, frozen, kept, stack)
            item = inner.get_dtype_inference().itemsize
            costs = {m: item * ranks[n] * cost_of(m) for n, m in layers.items()}
            kept.trial.gradients = kept.trial.folded = sum(costs.values())
            if item == GRADIENT:  # lora_up is no copy there, and its gradient is the parameter's
                kept.trial.folded = sum(item * ranks[n] * fan_in_of(m) for n, m in layers.items())
            kept.trial.at_the_end = kept.trial.folded + kept.trial.gradients * GRADIENT // item
            kept.trial.rank = max(ranks.values())
            for model in models:
                for block in repeated_blocks(model, set(layers.values())):
                    inside = set(block.modules())
                    enter = partial(kept.enter, sum(costs[m] for m in inside & costs.keys()))
                    before = block.register_forward_pre_hook(enter, with_kwargs=True)
                    after = block.register_forward_hook(kept.leave)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            stack.enter_context(ShapesOfKernels())
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda t: t))
            losses = [shape_of_loss(inner, batch, options, settings) for batch in batches]
            kept.trial.per_rank = sum(per_rank)
            kept.trial.overwrites = any(t._version != version for t, version in kept.packed)
            del losses
            return kept.trial
    except UNFIT as error:
        log.debug("What a step needs is not known: %s", error)
        return None


def cost_of(module: nn.Module) -> int:
    """Returns the number of parameters of one rank position of a layer."""
    return Component(module, 1, META).cost


def fan_in_of(module: nn.Module) -> int:
    """Returns the number of parameters of one rank position of a layer's lora_down."""
    return Component(module, 1, META).fan_in


def shape_of_loss(inner, batch: list[Example], options: dict, settings) -> Tensor:
    """Computes the loss of a batch without values."""
    latents, conditions = collate(batch)
    latents, weights = latents.to(META), weights_of(batch)
    sigma = torch.ones(len(latents), device=META)
    moved = {name: on_meta(value) for name, value in conditions.items()}
    weights = None if weights is None else weights.to(META)
    noise = torch.empty_like(latents)
    options = step_options(options, sigma) | {"optimized_attention_override": torchs_attention}
    return denoising_loss(inner, latents, noise, sigma, moved, options, settings, weights)


def pair_of(path: Component, made: dict, kept: Kept, x: Tensor) -> Pair:
    """Returns the pair of a path for inputs like x; its tensors are counted with the gradients."""
    dtype = path_dtype(x)
    if dtype not in made:
        unit = Unit([0], [path.capacity], path.lora_down.detach().to(dtype))
        unit.take([path.lora_up.detach().to(dtype)])
        for tensor in (unit.down, *unit.ups):
            kept.new(tensor)
        made[dtype] = Pair(unit, 0, torch.zeros((), device=META, requires_grad=True))
    return made[dtype]


def watched_paths(
    layers: Mapping[str, nn.Module],
    ranks: Mapping[str, int],
    frozen: Callable[[nn.Module], Frozen | None],
    kept: Kept,
    stack: ExitStack,
) -> list[float]:
    """Adds paths without values to the layers until the stack is left. Returns a list to which each
    pass through a layer adds the bytes that one rank position keeps.
    """
    found: list[float] = []
    highest = max(ranks.values())
    for name, module in layers.items():
        path = Component(module, ranks[name], META)
        path.rank = path.max_rank
        path.allocate(path.rank)
        if (layer := frozen(module)) is not None:
            path.join(layer, partial(pair_of, path, {}, kept))
        else:
            diagonal = torch.empty(path.capacity, device=META)
            path.hook(lambda diagonal=diagonal: diagonal)

        def count(_module, args, output, path=path):
            size = output.numel() / path.fan_out * output.element_size()
            found.append(size * path.rank / highest)

        handle = module.register_forward_hook(count)
        stack.callback(handle.remove)
        stack.callback(path.unhook)
    return found
