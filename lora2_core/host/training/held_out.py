"""The loss of pictures at fixed noise and timesteps while a run goes on. Training does not notice:
no bit of its result depends on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ...adapter.held_out import LEVELS, HeldOut, PictureLosses
from ...saying import log
from ...training.last_good import Copies
from ...training.loss import LossSettings
from ...training.run import Run, Step
from ...training.run_state import captured_adapters, restore_adapters
from ...training.validation import picture_steps, schedule, spread
from ..only_said import OnlySaid
from .examples import Example
from .objective import Draw, Renew, losses_of
from .previews import LONGEST_REASON, at_its_best
from .timesteps import noise_levels
from .validation import ValidationSettings

# of the noise, whatever the seed of the run: losses of several runs can be compared
SEED = 2024
# the adapter may be this many times the ceiling where its step counts as the best: what it is above
# the ceiling is cut at the end, which its loss does not know
NEARLY = 1.05
OBSERVED = "validation"  # in Run.observed


@dataclass(frozen=True)
class Validated:
    """Says what was computed: after which step, the held-out losses of the run so far as (step,
    loss), the best step so far, and how many seconds it took.
    """

    step: int
    losses: list[tuple[int, float]]
    best: int | None
    seconds: float


@dataclass(frozen=True)
class Probes:
    """Holds the pictures whose losses are computed, and how.

    held_out, pictures: an example of each picture that is held out, and of each that is trained on.
    names: of `pictures`. at_once: pictures in one forward pass.
    """

    inner: object
    held_out: list[Example]
    pictures: list[Example]
    names: list[str]
    options: dict
    settings: LossSettings
    at_once: int
    renew: Renew | None = None

    @torch.no_grad()
    def losses(self, example: Example, number: int) -> list[float]:
        """Returns the loss of a picture at each of the noise levels, from the least noise to the
        most. `number` chooses its noise.
        """
        generator = torch.Generator().manual_seed(SEED + number)
        latent, found = example.latent, []
        noise = torch.randn((LEVELS, *latent.shape[1:]), generator=generator).to(latent)
        noise, sigma = self.settings.offset(noise, generator), self.sigma(latent)
        (example,) = [example] if self.renew is None else self.renew([example])
        for first in range(0, LEVELS, self.at_once):
            some = slice(first, first + self.at_once)
            same = [example] * len(sigma[some])
            draw = Draw.of(self.inner, same, noise[some], sigma[some])
            found += losses_of(self.inner, draw, self.options, self.settings).tolist()
        return found

    def sigma(self, latent: Tensor) -> Tensor:
        """Returns the noise levels of a latent, [LEVELS]: the middles of equal shares of what a
        step draws from.
        """
        drawn = (torch.arange(LEVELS) + 0.5) / LEVELS
        levels = noise_levels(self.inner, self.settings, drawn, latent)
        return levels.sort().values.to(latent.device)


def distinct(examples: Sequence[Example], names: Sequence[str], most: int) -> dict[str, Example]:
    """Returns the first example of each picture by its name, `most` of them, evenly spread."""
    firsts: dict[str, Example] = {}
    for name, example in zip(names, examples, strict=True):
        firsts.setdefault(name, example)
    chosen = list(firsts)
    return {chosen[i]: firsts[chosen[i]] for i in spread(len(chosen), most)}


class Validation:
    """Computes the held-out loss of a run and the loss of each picture when they are due, and calls
    `on_validated` with each. After one that failed it computes no more: a run of hours does not end
    for it.
    """

    def __init__(
        self,
        settings: ValidationSettings,
        probes: Probes,
        run: Run,
        pictures_a_step: int,
        on_validated: Callable[[Validated], None],
    ):
        self.settings, self.probes, self.run = settings, probes, run
        self.on_validated, self.say = on_validated, OnlySaid()
        count, steps = len(probes.held_out), run.settings.steps
        self.every, used = settings.validation_every, count
        if self.every == 0 and count:
            self.every, used = schedule(steps, pictures_a_step, count)
        self.held_out = [probes.held_out[i] for i in spread(count, used)]
        self.picture_steps = picture_steps(steps) if settings.picture_losses else []
        self.state = run.observed.get(OBSERVED) or nothing()

    def before_the_first_step(self) -> None:
        """Computes the losses of the model as it is."""
        self.compute_due(0)

    def after(self, step: Step) -> None:
        """Computes what is due after a step."""
        self.compute_due(step.index)

    def compute_due(self, step: int) -> None:
        """Computes the losses that are due after a step, and keeps the adapter if it is the best
        one so far.
        """
        last = step == self.run.settings.steps
        held_out = self.held_out if self.held_out and (last or not step % self.every) else []
        pictures = self.probes.pictures if step in self.picture_steps else []
        if not held_out and not pictures:
            return
        began = time.monotonic()
        try:
            with at_its_best(self.run):
                levels = [self.probes.losses(e, n) for n, e in enumerate(held_out)]
                each = [self.probes.losses(e, n) for n, e in enumerate(pictures)]
                self.keep(step, levels, each)
        except comfy.model_management.InterruptProcessingException:  # in old hosts an Exception
            raise
        except Exception as error:  # whatever a model may raise, or too little memory
            reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
            log.warning("The held-out loss of step %d failed, and is left out: %s", step, reason)
            self.held_out, self.picture_steps = [], []
            return
        found = recorded(self.run)[0]
        losses = list(zip(found.steps, found.losses, strict=True))
        seconds = time.monotonic() - began
        self.say(self.on_validated, Validated(step, losses, found.best, seconds))

    def keep(self, step: int, levels: list[list[float]], each: list[list[float]]) -> None:
        """Adds what was computed to the run; a loss that is not a finite number is left out."""
        state = self.run.observed[OBSERVED] = self.state
        means = [math.fsum(column) / len(levels) for column in zip(*levels, strict=True)]
        if means and math.isfinite(math.fsum(means)):
            state["held_out"].append([step, *means])
            self.keep_best(step)
        losses = [math.fsum(row) / len(row) for row in each]
        if losses and math.isfinite(math.fsum(losses)):
            state["pictures"].append([step, *losses])

    def keep_best(self, step: int) -> None:
        """Copies the adapter, where the best one is returned: its smoothed loss is known when the
        next one is.
        """
        adapters = self.run.adapters
        if not self.settings.return_best or step == 0:
            return
        self.settle()
        if not adapters.mode.competes or adapters.parameters <= NEARLY * adapters.ceiling:
            copy = Copies().of(captured_adapters(self.run.adapters))
            self.state["candidate"] = {"step": step, "adapters": copy}

    def settle(self) -> None:
        """Makes the newest copy the best one if its smoothed loss is the lowest so far."""
        candidate, best = self.state["candidate"], self.state["best"]
        if candidate is None:
            return
        found = recorded(self.run)[0]
        mean = found.smooth()[found.steps.index(candidate["step"])]
        if best is None or mean < best["mean"]:
            self.state["best"] = candidate | {"mean": mean}
        self.state["candidate"] = None

    def take_best(self) -> bool:
        """Gives the run's adapter the values of the best step, where they are returned; returns
        whether it did.
        """
        self.settle()
        best = self.state["best"]
        if best is None:
            return False
        restore_adapters(self.run.adapters, best["adapters"])
        self.state["returned"] = best["step"]
        log.info("The adapter is that of step %d, where the held-out loss is best.", best["step"])
        return True


def nothing() -> dict:
    """Returns the state of a run in which nothing was computed yet."""
    return {"held_out": [], "pictures": [], "best": None, "candidate": None, "returned": None}


def recorded(run: Run, names: Sequence[str] = ()) -> tuple[HeldOut, PictureLosses]:
    """Returns what was computed in a run so far; names: of its pictures."""
    state = run.observed.get(OBSERVED) or nothing()
    found, pictures = HeldOut(), PictureLosses(names=list(names))
    for step, *levels in state["held_out"]:
        found.add(step, levels)
    for step, *losses in state["pictures"]:
        pictures.steps.append(step)
        pictures.losses.append(losses)
    return replace(found, returned=state["returned"]), pictures
