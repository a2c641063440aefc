"""One training run on a host model: everything that LoRA² Train does between its inputs and its
outputs.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from functools import partial

import comfy.model_management
import torch

from ...adapter.lora import RankedLora
from ...checks import check_choice, check_range
from ...layers.adapters import Adapters, attach
from ...layers.finish import finish
from ...layers.targets import TargetSettings
from ...ranks.settings import RankSettings
from ...saying import log
from ...training.attention import EntropyRecord
from ...training.last_good import LastGood
from ...training.loss import LossSettings
from ...training.optimizers import check_optimizer
from ...training.parallel import Processes
from ...training.run import Run, Step, TrainingDiverged
from ...training.settings import TrainSettings
from ...units import BYTES_PER_PARAMETER, MEGABYTE
from .checkpointing import Keeper, KeepSettings, sketch
from .facts import facts_to_keep, run_facts
from .fit import check_model_takes
from .items import flatten_conditioning, flatten_latents, make_items
from .loan import lent
from .masks import MaskSettings, mask_weights, weighed
from .memory import out_of_memory
from .objective import check_loss, cross_attention, make_loss
from .out_of_place import overwriting_refused
from .previews import Preview, Previews, Shown
from .prior import PriorSettings, make_joint_loss
from .recomputing import Recomputing
from .snapshots import Snapshots, SnapshotSettings
from .start import StartSettings
from .text_encoder import TextEncoder, TextSettings, text_modules

CHECKPOINTING = ("auto", "on", "off")


@dataclass(frozen=True)
class HostRun:
    """What to train: rank, training, target, loss, prior, mask, start, text, keep and snapshot
    settings, batch size, what to show meanwhile, and whether blocks compute their activations again
    in the backward pass, which costs a third more time and a fraction of the memory (`auto`: from
    the first step on that finds too little).
    """

    rank: RankSettings
    training: TrainSettings
    batch_size: int = 1
    target: TargetSettings = TargetSettings()
    checkpointing: str = "auto"
    previews: tuple[Preview, ...] = ()
    loss: LossSettings = LossSettings()
    prior: PriorSettings = PriorSettings()
    mask: MaskSettings = MaskSettings()
    start: StartSettings = StartSettings()
    text: TextSettings = TextSettings()
    keep: KeepSettings = KeepSettings()
    snapshots: SnapshotSettings = SnapshotSettings()

    @classmethod
    def of(cls, choices: Mapping[str, object]) -> HostRun:
        """A run of named choices: each goes to the settings that have a field of its name.
        ValueError for one that none has.
        """
        kinds = {
            "rank": RankSettings, "training": TrainSettings, "target": TargetSettings,
            "loss": LossSettings, "prior": PriorSettings, "mask": MaskSettings,
            "start": StartSettings, "text": TextSettings, "keep": KeepSettings,
            "snapshots": SnapshotSettings,
        }  # fmt: skip
        own = [f.name for f in fields(cls) if f.name not in kinds]
        names = {part: [f.name for f in fields(kind)] for part, kind in kinds.items()}
        if unknown := set(choices).difference(own, *names.values()):
            raise ValueError(
                f"options hold {min(map(str, unknown))!r}, which no setting has: connect LoRA2 "
                "option nodes."
            )

        def chosen(wanted: list[str]) -> dict:
            return {name: choices[name] for name in wanted if name in choices}

        parts = {part: kind(**chosen(names[part])) for part, kind in kinds.items()}
        return cls(**parts, **chosen(own))

    def __post_init__(self) -> None:
        check_optimizer(self.training.optimizer, self.rank.rules)
        check_choice("checkpointing", self.checkpointing, CHECKPOINTING)
        check_range("batch_size", self.batch_size, 1, 4096, integer=True)
        if not isinstance(self.previews, tuple) or not all(
            isinstance(preview, Preview) for preview in self.previews
        ):
            raise ValueError("previews hold something else: connect LoRA2 Preview Options.")


@dataclass
class Outcome:
    """The adapter as far as the run came, its loss at every step, why it ended early (None when it
    did not), after which step it was taken up, the newest checkpoint that it can go on from, and
    the most MB that the settings allow (None: no limit).
    """

    lora: RankedLora
    losses: list[float] = field(default_factory=list)
    stopped: BaseException | None = None
    first: int = 0
    checkpoint: str | None = None
    ceiling: float | None = None


def train_on(
    model,
    latents: list[dict],
    positive: list[list],
    run: HostRun,
    on_step: Callable[[Step], None],
    on_preview: Callable[[Shown], None] = lambda shown: None,
) -> Outcome:
    """Trains beside a ModelPatcher's frozen layers; the model leaves as it came in.

    on_step is called after every step and may raise (the host's interrupt): the Outcome then holds
    what was learned so far, and the exception. on_preview is called for every preview. Bad input
    raises ValueError before anything is trained.
    """
    pictures = flatten_latents(latents, model)
    captions = flatten_conditioning(positive, len(pictures))
    check_it_learns(run)
    run.prior.check(model, captions)
    run.text.check(model, captions, run.prior)
    for preview in run.previews:
        preview.check(captions)
    mask_weights(run.mask, pictures)
    check_loss(run.loss, model.get_model_object("model_sampling"))
    run.keep.check()
    run.snapshots.check()
    started = datetime.now(timezone.utc)
    stopped = None
    with ExitStack() as stack:
        loan = stack.enter_context(lent(model, *([run.text.clip.patcher] if run.text.used else [])))
        inner, text, prior = loan.inner, None, run.prior
        chosen, modules, speeds = run.target.chosen(inner), dict(inner.named_modules()), {}
        if run.text.used:
            text = TextEncoder(run.text.clip, loan)
            captions = flatten_conditioning(positive, len(flatten_latents(latents, model)))
            positive = text.told(captions, run.text.texts(captions))
            prior = text.told_prior(prior, run.text)
            theirs = text_modules(text.patcher.model)
            chosen, modules = chosen | run.text.chosen(text.patcher.model), modules | theirs
            speeds = dict.fromkeys(theirs, run.text.speed(run.training.learning_rate))
        items = weighed(make_items(model, inner, latents, positive), run.mask)
        options = dict(model.model_options.get("transformer_options", {}))
        check_model_takes(inner, items, captions, options)
        priors = prior.items(model, inner, options)
        start = run.start.adapter(model, run.text.clip)
        adapters = attach(
            inner,
            run.start.with_its_own(chosen, start, modules),
            run.rank,
            seed=run.training.seed,
            device=comfy.model_management.get_torch_device(),
            start=start,
            speeds=speeds,
        )
        stack.callback(adapters.detach)
        check_room(adapters)
        recomputing = Recomputing([p.model for p in loan.patchers], adapters, stack)
        if run.checkpointing == "on":
            recomputing.turn_on()
        attention = None
        if adapters.settings.attention_weight:
            attention = EntropyRecord()
            options["optimized_attention_override"] = stack.enter_context(
                cross_attention(inner, attention)
            )
        half = inner.get_dtype_inference() == torch.float16
        parts = (run.batch_size, options, run.loss, text and text.renew)
        loss_fn = make_loss(inner, items, *parts)
        if priors:
            loss_fn = make_joint_loss(inner, items, priors, run.prior.prior_weight, *parts)
        training = Run(adapters, run.training, half=half, processes=Processes.joined())
        facts, pictures = {}, []
        if run.keep.used:
            facts = facts_to_keep(model, inner, run, items + priors)
            pictures = sketch(items + priors)
        keeper, last_good = Keeper(run.keep, training, facts, pictures), LastGood(training)
        previews = Previews(run.previews, loan, training, items[0].latent, on_preview, text)
        told = partial(run_facts, model, run, items, training, started, recomputing)
        snapshots = Snapshots(run.snapshots, training, told)
        try:
            if keeper.first == 0:
                previews.after(0)
            steps = partial(training.steps, loss_fn, attention)
            # with several processes, one that tries again would leave the others waiting
            if run.checkpointing == "auto" and training.processes is None:
                steps = partial(steps_with_room, training, recomputing, steps)
            with overwriting_refused(), closing(steps()) as going:
                for step in going:
                    keeper.after(step.index)
                    last_good.after(step.index)
                    snapshots.after(step.index)
                    on_step(step)
                    previews.after(step.index)
        except BaseException as error:  # whatever ends a run, what it has learned is kept
            stopped = ended_by(error, learned=len(training.losses) > keeper.first)
            keeper.rescue()
        if not last_good.restore():
            training.optimizer.take_means()
        elif not isinstance(stopped, comfy.model_management.InterruptProcessingException):
            stopped = TrainingDiverged(
                f"The weights were not finite after step {len(training.losses)}: lower "
                f"learning_rate. The adapter is that of step {last_good.step}."
            )
        lora = finish(adapters, told())
    kept = keeper.first, keeper.name, training.megabytes_allowed
    return Outcome(lora, training.losses, stopped, *kept)


def check_it_learns(run: HostRun) -> None:
    """Raises ValueError where no step would change anything."""
    if run.training.learning_rate == 0:
        if run.text.used:
            run.text.speed(0)  # says it where the text encoder has a rate of its own
        raise ValueError(
            "learning_rate is 0, so nothing would be learned: give one above 0, such as 1e-4."
        )


def check_room(adapters: Adapters) -> None:
    """Raises ValueError where the budget does not hold one rank of every single layer: whichever is
    worth most would then not fit.
    """
    budget = adapters.settings.budget_mb
    largest = max(c.cost for c in adapters.components.values())
    if adapters.mode.competes and budget > 0 and adapters.ceiling < largest:
        rank, all_of_them = (
            n * BYTES_PER_PARAMETER / MEGABYTE for n in (largest, float(adapters.costs.sum()))
        )
        raise ValueError(
            f"budget_mb is {budget:g}, but one rank of the largest layer takes {rank:.2g} MB, so "
            f"nothing might be left at the end: give more, at best above {all_of_them:.2g}, which "
            "is one rank in every layer."
        )


def steps_with_room(
    training: Run, recomputing: Recomputing, steps: Callable[[], Iterator[Step]]
) -> Iterator[Step]:
    """The steps of a run. The first one that finds too little memory is computed again with
    checkpointing, and all that follow.
    """
    try:
        yield from steps()
        return
    except Exception as error:
        if recomputing.on or not training.between_steps or not out_of_memory(error):
            raise
        cleared(error)
    log.info(
        "Step %d found too little memory: training goes on with gradient checkpointing.",
        len(training.losses) + 1,
    )
    recomputing.turn_on()
    yield from steps()


def ended_by(error: BaseException, learned: bool) -> BaseException:
    """What ended a run, cleared. An error that nobody expects is written to the log first, and
    raised where nothing has been learned yet.
    """
    expected = comfy.model_management.InterruptProcessingException, TrainingDiverged
    if not isinstance(error, expected) and not out_of_memory(error):
        if not learned:
            raise error
        log.error("LoRA2 Train ended by an error:", exc_info=error)
    return cleared(error)


def cleared(error: BaseException) -> BaseException:
    """The error without the tensors that its traceback holds."""
    traceback.clear_frames(error.__traceback__)
    if out_of_memory(error):
        comfy.model_management.soft_empty_cache()
    return error.with_traceback(None)
