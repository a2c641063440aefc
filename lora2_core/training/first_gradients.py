"""Looks in the first steps whether every layer gets a gradient: one that gets none learns nothing,
while the loss falls and the run seems to go well.
"""

from __future__ import annotations

import torch

from ..layers.adapters import Adapters
from ..saying import log

# steps that are looked at. A layer may rest in the first, where its part of the loss is masked
STEPS = 2
# names of layers in the log; further ones are counted
NAMED = 8


def nothing_learns() -> ValueError:
    """Returns the error for a run in which no layer gets a gradient."""
    return ValueError(
        "No layer gets a gradient, so nothing would be learned: something that the model computes "
        "with has no backward pass. Start ComfyUI without options that replace its attention or "
        "its layers, and leave out nodes that patch the model."
    )


class FirstGradients:
    """Remembers the layers that have had no gradient yet. lora_up is looked at: it begins at zero,
    so that lora_down has no gradient in the first step.
    """

    def __init__(self, adapters: Adapters):
        self.adapters, self.looked = adapters, 0
        self.missing = [name for name, c in adapters.components.items() if c.rank]

    def look(self, loss: float, *, last: bool = False) -> tuple[str, ...]:
        """Looks at the gradients of a step, and waits for the device in the first STEPS steps.

        Returns the names of the layers without any, once: after STEPS steps or the `last` one.
        Raises ValueError where no layer has one, unless the loss is 0, which has no gradients.
        """
        if self.looked == STEPS:
            return ()
        self.looked += 1
        components = self.adapters.components
        given = self.adapters.paths.sheets.gradients()
        found = {n: given.get(components[n].lora_up) for n in self.missing}
        there = [name for name, gradient in found.items() if gradient is not None]
        if there:
            norms = torch.stack(torch._foreach_norm([found[name] for name in there])).tolist()
            there = [name for name, norm in zip(there, norms, strict=True) if norm != 0]
        missing = [name for name in self.missing if name not in set(there)]
        if loss != 0 and len(missing) == len(components):
            raise nothing_learns()
        self.missing = missing
        if self.looked < STEPS and missing and not last:
            return ()
        self.looked = STEPS
        if missing:
            more = f", and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            log.warning(
                "%d of %d layers get no gradient and learn nothing: %s%s.",
                len(missing), len(components), ", ".join(missing[:NAMED]), more,
            )  # fmt: skip
        return tuple(missing)
