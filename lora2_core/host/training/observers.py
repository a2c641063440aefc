"""What is done after every step of a run: files, copies, previews, and the caller's report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ...training.last_good import LastGood
from ...training.run import Step
from .checkpoint_keeping import CheckpointKeeper, sampled_values
from .choices import Choices
from .facts import facts_to_resume, metadata_of
from .held_out import Validated, Validation
from .previews import Drawn, Previews
from .setup import Setup
from .snapshots import Snapshots


@dataclass(frozen=True)
class Observers:
    """Holds what observes a run."""

    validation: Validation
    keeper: CheckpointKeeper
    last_good: LastGood
    snapshots: Snapshots
    on_step: Callable[[Step], None]
    previews: Previews

    @property
    def in_order(self) -> list[Callable[[Step], None]]:
        """Returns what is called after every step. The held-out loss comes first, since files hold
        it. Files and copies come before the caller, which may raise the host's interrupt: nothing
        of the step is lost then. Previews, which take longest, come last.
        """
        return [
            self.validation.after,
            self.keeper.after,
            self.last_good.after,
            self.snapshots.after,
            self.on_step,
            self.previews.after,
        ]

    def before_the_first_step(self) -> None:
        """Does what is done before any training: the held-out loss and the previews of the model
        as it is. A run that was taken up has done it.
        """
        if self.keeper.resumed_after == 0:
            self.validation.before_the_first_step()
            self.previews.before_the_first_step()


def observe(
    model,
    choices: Choices,
    setup: Setup,
    on_step: Callable[[Step], None],
    on_preview: Callable[[Drawn], None],
    on_validated: Callable[[Validated], None],
) -> Observers:
    """Returns the observers of a run, which is first taken up from a checkpoint where one was
    chosen. Raises ValueError where the checkpoint doesn't fit.
    """
    run, facts, values = setup.run, {}, []
    if choices.keep.used:
        facts = facts_to_resume(model, choices, setup)
        values = sampled_values(setup.all_examples)
    keeper = CheckpointKeeper(choices.keep, run, facts, values)
    first = setup.examples[0].latent
    rest = choices.pictures_a_step, on_validated
    return Observers(
        Validation(choices.validation, setup.probes, run, *rest),
        keeper,
        LastGood(run),
        Snapshots(choices.snapshots, run, partial(metadata_of, model, choices, setup)),
        on_step,
        Previews(choices.previews, setup.loan, run, first, on_preview, setup.text_encoder),
    )
