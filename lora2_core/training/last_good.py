"""A copy of the adapter from the last time that all its values were finite, for a run whose
optimizer makes some of them NaN or infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .run import Run, Step
from .run_state import Tree, captured, restore_adapters

# steps between two copies, once a run has passed that many. A copy takes about as long as reading
# the adapter twice, so every 25 steps it is lost among them, and at most 25 steps are lost with it
EVERY = 25


def copied(tree: Tree) -> Tree:
    """Returns the tree with copies of its tensors on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


class LastGood:
    """Copies a run's adapter now and then, and puts the copy back if the adapter holds NaN or
    infinite values at the end. Optimizer and losses stay as they are, since the run is over.
    """

    def __init__(self, run: Run):
        self.run, self.due, self.step = run, 1, len(run.losses)
        state = captured(run)["adapters"]
        ups = state.pop("lora_up")
        if run.losses or run.adapters.started:
            ups = copied(ups)
        else:  # every lora_up is zero, so one value is enough for each
            ups = {name: up.new_zeros(()).expand_as(up) for name, up in ups.items()}
        self.copy = copied(state) | {"lora_up": ups}

    def finite(self) -> bool:
        """Returns whether all values of the adapter are finite; it waits for the device once."""
        adapters = self.run.adapters
        finite = [adapters.rate_parameter.detach().isfinite().all()]
        for component in adapters.components.values():
            finite += [component.lora_up.isfinite().all(), component.lora_down.isfinite().all()]
        return bool(torch.stack(finite).all())

    def after(self, step: Step) -> None:
        """Copies the adapter if a copy is due after this step and all its values are finite. Copies
        are due after steps 1, 2, 4, 8 and so on, then every 25.
        """
        if step.index >= self.due and self.finite():
            self.copy = copied(captured(self.run)["adapters"])
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
