"""One training on a model of the host, from its inputs to its outcome: checked, set up, observed,
and then step by step.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import comfy.model_management

from ...adapter.lora import RankedLora
from ...adapter.origin import Note
from ...layers.finish import finish
from ...saying import log
from ...training.run import Step, TrainingDiverged
from .choices import Choices
from .facts import metadata_of
from .held_out import Validated
from .inputs import check_inputs
from .memory import out_of_memory
from .memory_plan import Plan
from .observers import Observers, observe
from .out_of_place import overwriting_refused
from .overwritten import is_overwriting, overwrites, remembered
from .previews import Drawn
from .setup import Setup, set_up
from .timesteps import with_usual

Interrupt = comfy.model_management.InterruptProcessingException


@dataclass
class Outcome:
    """Holds what came of a training.

    lora: the adapter as far as the run came.
    losses: one of every step.
    stopped_by: why it ended before its last step, None where it did not.
    resumed_after: the step after which it was taken up from a checkpoint, 0 for a new run.
    checkpoint: the newest one that it can go on from, None without one.
    megabytes_allowed: the most MB that the settings allow, None without a limit.
    """

    lora: RankedLora
    losses: list[float] = field(default_factory=list)
    stopped_by: BaseException | None = None
    resumed_after: int = 0
    checkpoint: str | None = None
    megabytes_allowed: float | None = None


def train_on(
    model,
    latents: list[dict],
    positive: list[list],
    choices: Choices,
    on_step: Callable[[Step], None],
    on_preview: Callable[[Drawn], None] = lambda drawn: None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_validated: Callable[[Validated], None] = lambda validated: None,
    on_note: Callable[[Note], None] = lambda note: None,
) -> Outcome:
    """Trains beside a ModelPatcher's frozen layers and returns the outcome; the model leaves as it
    came in.

    on_step is called after every step and may raise (the host's interrupt): the outcome then holds
    what was learned so far, and the exception. on_preview is called with every preview, on_plan
    before the first step where the run's memory is planned, on_validated with every held-out loss,
    on_note with a sentence where something is done otherwise than chosen.
    Raises ValueError for bad input, before anything is trained.
    """
    choices = replace(choices, loss=with_usual(choices.loss, model))
    inputs = check_inputs(model, latents, positive, choices)
    with set_up(model, inputs, choices, on_note) as setup:
        if setup.plan is not None:
            on_plan(setup.plan)
        metadata_of(model, choices, setup)  # what fails of it fails before the first step
        observers = observe(model, choices, setup, on_step, on_preview, on_validated)
        stopped_by = run_steps(setup, choices, observers)
        stopped_by = take_best_weights(setup, observers, stopped_by)
        return Outcome(
            finish(setup.adapters, metadata_of(model, choices, setup)),
            setup.run.losses,
            stopped_by,
            observers.keeper.resumed_after,
            observers.keeper.name,
            setup.run.megabytes_allowed,
        )


def run_steps(setup: Setup, choices: Choices, observers: Observers) -> BaseException | None:
    """Trains until the last step, or until something stops it. Returns what did, None where nothing
    did; raises an error that nobody expects where nothing was learned before it.
    """
    after_each = observers.in_order
    try:
        observers.before_the_first_step()
        with overwriting_refused(), closing(steps_of(setup, choices)) as steps:
            for step in steps:
                for after in after_each:
                    after(step)
    except BaseException as error:  # whatever ends a run, what it has learned is kept
        learned = len(setup.run.losses) > observers.keeper.resumed_after
        stopped_by = kept_error(error, learned)
        observers.keeper.rescue()
        return stopped_by
    return None


def steps_of(setup: Setup, choices: Choices) -> Iterator[Step]:
    """Returns the steps of a run, as gradient checkpointing was chosen."""
    # with several processes, one that tries again would leave the others waiting
    room = choices.checkpointing == "auto" and setup.run.processes is None
    return steps_that_keep(setup, steps_with_room if room else Setup.steps)


def steps_that_keep(setup: Setup, steps: Callable[[Setup], Iterator[Step]]) -> Iterator[Step]:
    """Yields the steps of a run. Where the model writes over what its gradients need, the step is
    computed again with copies of that, and so are all that follow.
    """
    model = setup.loan.inner.diffusion_model
    try:
        yield from steps(setup)
        return
    except RuntimeError as error:
        if overwrites(model) or not setup.run.between_steps or not is_overwriting(error):
            raise
        cleared(error)
    with remembered(model):
        yield from steps(setup)


def steps_with_room(setup: Setup) -> Iterator[Step]:
    """Yields the steps of a run. The first step that has too little memory is computed again with
    gradient checkpointing, and so are all that follow.
    """
    try:
        yield from setup.steps()
        return
    except Exception as error:
        if setup.checkpointing.on or not setup.run.between_steps or not out_of_memory(error):
            raise
        cleared(error)
    log.info(
        "Step %d found too little memory: training goes on with gradient checkpointing.",
        len(setup.run.losses) + 1,
    )
    setup.checkpointing.turn_on()
    yield from setup.steps()


def take_best_weights(
    setup: Setup, observers: Observers, stopped_by: BaseException | None
) -> BaseException | None:
    """Gives an ended run its final weights: those of the best step where they are wanted, else
    their running means, or the last copy that was finite where they are not. Returns what stopped
    the run, which may be that.
    """
    last_good = observers.last_good
    if not last_good.restore():
        if not observers.validation.take_best():
            setup.run.optimizer.take_means()
    elif not isinstance(stopped_by, Interrupt):
        return TrainingDiverged(
            f"The weights were not finite after step {len(setup.run.losses)}: lower "
            f"learning_rate. The adapter is that of step {last_good.step}."
        )
    return stopped_by


def kept_error(error: BaseException, learned: bool) -> BaseException:
    """Returns what ended a run, without the memory that it holds. An error that nobody expects is
    written to the log first, and raised where nothing was learned yet.
    """
    if not isinstance(error, (Interrupt, TrainingDiverged)) and not out_of_memory(error):
        if not learned:
            raise error
        log.error("LoRA2 Train ended by an error:", exc_info=error)
    return cleared(error)


def cleared(error: BaseException) -> BaseException:
    """Returns the error without the tensors that its traceback holds."""
    traceback.clear_frames(error.__traceback__)
    if out_of_memory(error):
        comfy.model_management.soft_empty_cache()
    return error.with_traceback(None)
