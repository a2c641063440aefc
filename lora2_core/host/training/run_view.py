"""Shows a training to whoever watches it: the host's progress bar, the terminal and the graph."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils

from ...adapter.origin import Note
from ...training.run import Step
from ..only_said import OnlySaid
from .advice import advice
from .choices import Choices
from .console import Console
from .held_out import Validated
from .hints import RESTING, UNTAKEN, hints
from .idle import remember
from .live import BEGUN, EVENT, Origin, Progress, last_step
from .memory_plan import Plan
from .odd_values import odd_values
from .previews import Drawn
from .run import Outcome, train_on


class RunView:
    """Shows a run: `with RunView(…) as view:`. Whatever of it fails, the run goes on.

    send: sends an event, its kind and a dict that JSON can hold, to every open page.
    """

    def __init__(self, origin: Origin, choices: Choices, send: Callable[[str, dict], None]):
        self.choices, self.send, self.say = choices, send, OnlySaid()
        self.inner = None
        steps = choices.training.steps
        self.progress = Progress(origin, steps)
        self.console, self.bar = Console(steps), comfy.utils.ProgressBar(steps)

    def begin(self, model, latents: list, positive: list, taken: bool) -> None:
        """Shows that the run begins, with advice on what was chosen. `taken`: whether another node
        takes the adapter.
        """
        progress, choices = self.progress, self.choices
        progress.batch_size = choices.pictures_a_step
        progress.pictures = self.say(choices.validation.trained, latents) or 0
        progress.notes += self.say(hints, model, choices, positive) or []
        progress.notes += self.say(lambda: list(odd_values(choices, latents))) or []
        progress.notes += self.say(lambda: list(advice(model, latents, positive, choices))) or []
        if not taken:
            progress.notes.append(UNTAKEN)
        self.say(lambda: self.send(BEGUN, progress.ids()))

    def plan(self, plan: Plan) -> None:
        """Shows what a run's memory is planned to be, from the next event on."""
        self.say(lambda: self.progress.notes.extend(plan.notes))

    def note(self, note: Note) -> None:
        """Shows a sentence from the next event on."""
        self.say(self.progress.notes.append, note)

    def train(self, model, latents: list, positive: list) -> Outcome:
        """Trains as `train_on` does, and shows all of it; `begin` comes before."""
        self.inner = model.model
        with self:
            return train_on(
                model, latents, positive, self.choices, self.after,
                on_preview=self.show, on_plan=self.plan, on_validated=self.validate,
                on_note=self.note,
            )  # fmt: skip

    def __enter__(self) -> RunView:
        self.console.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.console.__exit__(*error)

    def after(self, step: Step) -> None:
        """Shows a step, and raises the host's interrupt."""
        self.say(self.bar.update_absolute, step.index)
        self.say(self.console.step, step)
        self.say(self.progress.add, step)
        if step.without_gradient:
            self.say(remember, self.inner, step.without_gradient)
            self.progress.notes.append(RESTING)
        self.say(self.send_if_due)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def send_if_due(self) -> None:
        """Sends an event to the graph, unless the last one was just before."""
        if self.progress.due():
            self.send(EVENT, self.progress.event())

    def show(self, drawn: Drawn) -> None:
        """Shows a preview; that of the first step is shown with the step."""
        self.say(self.console.pause, drawn.seconds)
        self.say(self.progress.show, drawn)
        if self.progress.last is not None:
            self.say(lambda: self.send(EVENT, self.progress.event(full=True)))

    def validate(self, validated: Validated) -> None:
        """Shows a held-out loss with the next step."""
        self.say(self.console.pause, validated.seconds, "the held-out loss")
        self.say(self.progress.validate, validated)

    def end_early(self, why: str, kept: str | None) -> None:
        """Shows why a run ended before its last step, `cancelled` or `failed`, and the name of its
        adapter among the loras.
        """
        if self.progress.last is not None:  # else the run only went through what it had resumed
            self.progress.end(why, kept)
            self.say(lambda: self.send(EVENT, self.progress.event(full=True)))

    def end(self, outcome: Outcome) -> dict | None:
        """Shows the finished adapter. Returns the last event, None where it could not be made."""
        lora, limit = outcome.lora, outcome.megabytes_allowed
        self.say(self.progress.add, last_step(lora, outcome.losses, limit))
        if event := self.say(self.progress.event, full=True):
            self.say(self.send, EVENT, event)
        return event
