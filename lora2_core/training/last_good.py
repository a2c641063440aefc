"""The adapter as it was when all its values were last seen to be finite, for a run whose optimizer
breaks them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .run import Run
from .run_state import Tree, captured, restore_adapters

EVERY = 25  # steps between two copies at most: one costs about two reads of the adapter


def copied(tree: Tree) -> Tree:
    """Returns the tree with copies of its tensors, on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


class LastGood:
    """Copies a run's adapter now and then, and puts the copy back when the adapter holds NaN or
    infinite values. Optimizer and losses stay as they are: the run has ended by then.
    """

    def __init__(self, run: Run):
        self.run, self.due, self.step = run, 1, len(run.losses)
        state = captured(run)["adapters"]
        ups = state.pop("lora_up")
        if run.losses or run.adapters.started:
            ups = copied(ups)
        else:  # all zero: one zero will do for each
            ups = {name: up.new_zeros(()).expand_as(up) for name, up in ups.items()}
        self.copy = copied(state) | {"lora_up": ups}

    def finite(self) -> bool:
        """Returns whether all values of the adapter are finite; one device sync."""
        adapters = self.run.adapters
        found = [adapters.rate_parameter.detach().isfinite().all()]
        for component in adapters.components.values():
            found += [component.lora_up.isfinite().all(), component.lora_down.isfinite().all()]
        return bool(torch.stack(found).all())

    def after(self, step: int) -> None:
        """Copies where a copy is due, often at first, and the adapter whole."""
        if step >= self.due and self.finite():
            self.copy = copied(captured(self.run)["adapters"])
            self.step, self.due = step, min(2 * step, step + EVERY)

    def restore(self) -> bool:
        """Puts the copy back where it is needed; says whether it was."""
        if self.finite():
            return False
        restore_adapters(self.run.adapters, self.copy)
        return True
