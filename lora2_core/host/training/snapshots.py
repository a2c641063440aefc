"""Writes adapters on the way: every so many steps, the file that a run would give if it ended
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ...checks import check_range, check_text
from ...layers.finish import finish
from ...saying import log
from ...training.run import Run, Step
from ..store import check_prefix, save_under_loras
from .previews import at_its_best

PREFIX = "lora2/steps/lora2"


@dataclass(frozen=True)
class SnapshotSettings:
    """Holds when adapters are written on the way.

    adapter_every: steps from one file to the next; 0 for none.
    adapter_prefix: folder and name of the files, below the loras folder; the step follows.
    """

    adapter_every: int = 0
    adapter_prefix: str = PREFIX

    def __post_init__(self) -> None:
        check_range("adapter_every", self.adapter_every, 0, 1_000_000, integer=True)
        check_text("adapter_prefix", self.adapter_prefix)

    def check(self) -> None:
        """Raises ValueError where no file could be written."""
        if self.adapter_every > 0:
            check_prefix(self.adapter_prefix)


class Snapshots:
    """Writes a run's adapters on the way. Training does not notice.

    `facts()` returns what the metadata of a file say.
    """

    def __init__(self, settings: SnapshotSettings, run: Run, facts: Callable[[], Mapping]):
        self.settings, self.run, self.facts = settings, run, facts

    def after(self, step: Step) -> None:
        """Writes an adapter where one is due; that of the last step is the run's own outcome. A
        full disk is no reason to lose the run: it goes on, and the log says so.
        """
        every, index = self.settings.adapter_every, step.index
        if every == 0 or index % every or index == self.run.settings.steps:
            return
        try:
            with at_its_best(self.run):
                lora = finish(self.run.adapters, self.facts())
            name, _ = save_under_loras(lora, f"{self.settings.adapter_prefix}_step-{index:06}")
        # ValueError, LinAlgError: nothing is learned yet, or the weights are not finite
        except (OSError, ValueError, torch.linalg.LinAlgError) as error:
            log.error("The adapter of step %d is not saved: %s", index, error)
        else:
            log.info("The adapter of step %d is saved as %s.", index, name)
