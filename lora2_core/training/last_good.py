"""A copy of the adapter from the last time that all its values were finite, for a run whose
optimizer makes some of them NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..layers.storage import storage_of
from .run import Run, Step
from .run_state import Tree, captured_adapters, joined, restore_adapters, split

# steps between two copies, once a run has passed that many. A copy takes about as long as reading
# the adapter twice, so every 25 steps it is lost among them, and at most 25 steps are lost with it
EVERY = 25


def wholes_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the memory of these fp32 tensors as flat tensors, each once: those of many layers lie
    behind each other, and are one copy.
    """
    found: dict[int, Tensor] = {}
    for tensor in tensors:
        if storage_of(tensor) not in found:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            found[storage_of(tensor)] = tensor.as_strided((size,), (1,), 0)
    return list(found.values())


class Copies:
    """Copies trees of tensors to the CPU, each into the memory of the one before. A GPU is not
    waited for: it copies in its own order, before it computes the next step.
    """

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def of(self, tree: Tree) -> Tree:
        """Returns the tree with copies of its tensors on the CPU, where the last tree's are lost.
        A GPU may not have written them yet; what is copied back to it comes later in its order.
        """
        tensors: dict[str, Tensor] = {}
        plain = split(tree, tensors)
        packed = {k: t for k, t in tensors.items() if t.dtype == torch.float32}
        wholes, copies = wholes_of(list(packed.values())), {}
        sizes = [whole.numel() for whole in wholes]
        flat = self.room(sum(sizes), packed)
        for whole, part in zip(wholes, flat.split(sizes), strict=True):
            copies[storage_of(whole)] = part.copy_(whole, non_blocking=True)
        for name, t in packed.items():
            copy = copies[storage_of(t)]
            tensors[name] = copy.as_strided(
                t.shape, t.stride(), copy.storage_offset() + t.storage_offset()
            )
        rest = {name: t.to("cpu", copy=True) for name, t in tensors.items() if name not in packed}
        return joined(plain, tensors | rest)

    def room(self, size: int, tensors: dict[str, Tensor]) -> Tensor:
        """Returns so many fp32 values of memory; a GPU writes pinned memory without a wait."""
        if size > self.memory.numel():
            self.memory = torch.empty(0)
            pinned = any(t.device.type == "cuda" for t in tensors.values())
            self.memory = torch.empty(size, pin_memory=pinned)
        return self.memory[:size]


class LastGood:
    """Copies a run's adapter now and then, and puts the copy back if the adapter holds NaN or
    infinite values at the end. Optimizer and losses stay as they are, since the run is over.
    """

    def __init__(self, run: Run):
        self.run, self.due, self.step = run, 1, len(run.losses)
        self.copies = Copies()
        state = self.captured()
        ups = state.pop("lora_up")
        if run.losses or run.adapters.started:
            state["lora_up"] = ups
        else:  # every lora_up is zero, so one value is enough for each
            ups = {name: torch.zeros(()).expand(up.shape) for name, up in ups.items()}
        self.copy = {"lora_up": ups} | self.copies.of(state)

    def captured(self) -> dict:
        """Returns the state of the adapter, its tensors the run's own."""
        return captured_adapters(self.run.adapters)

    def finite(self) -> bool:
        """Returns whether all values of the adapter are finite; it waits for the device once."""
        adapters = self.run.adapters
        tensors = [adapters.rate_parameter]
        for component in adapters.components.values():
            tensors += [component.lora_up, component.lora_down]
        # sums of magnitudes: of all tensors at once, and finite as long as the values are
        total = torch.nn.utils.get_total_norm([t.detach() for t in tensors], norm_type=1.0)
        return bool(total.isfinite())

    def after(self, step: Step) -> None:
        """Copies the adapter if a copy is due after this step and all its values are finite. Copies
        are due after steps 1, 2, 4, 8 and so on, then every 25.
        """
        if step.index >= self.due and self.finite():
            self.copy = self.copies.of(self.captured())
            self.step = step.index
            self.due = min(2 * self.step, self.step + EVERY)

    def restore(self) -> bool:
        """Puts the copy back if the adapter holds values that are not finite; returns whether it
        did.
        """
        if self.finite():
            return False
        restore_adapters(self.run.adapters, self.copy)
        return True
