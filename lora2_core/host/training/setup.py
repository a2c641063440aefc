"""Sets a training up on a model on loan: examples, adapters, the loss and the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial

import comfy.model_management
import torch
from torch import nn

from ...adapter.lora import RankedLora
from ...adapter.origin import Note
from ...layers.adapters import Adapters, attach
from ...ranks.settings import RankSettings
from ...training.attention import EntropyRecord
from ...training.parallel import Processes
from ...training.run import LossFunction, Run, Step
from ...training.validation import PICTURES
from ...units import megabytes
from .accumulated import make_parts
from .attention import OVERRIDE
from .choices import Choices
from .compiled import CompiledBlocks, compiled_blocks
from .cross_attention import recorded_attention
from .examples import Example, make_examples
from .gradient_checkpointing import GradientCheckpointing
from .held_out import Probes, distinct
from .inputs import Inputs
from .loan import Loan, lent
from .memory_plan import Plan
from .objective import Renew, make_loss
from .overwritten import remembered
from .pictures import Pictures, naming
from .preserving import Preservation, with_class
from .prior import make_joint_loss, naming_the_prior
from .room import Task, beginning_at, planned
from .text_encoder import TextEncoder, text_layers
from .timesteps import as_sampled
from .trial_forward import check_model_takes, forward


@dataclass(frozen=True)
class Setup:
    """Holds everything that a training needs.

    started: when it was set up.
    loan: the model, and the text encoder where it is trained.
    examples, prior_examples: what is learned from.
    loss_fn: L_rec of a random batch. probes: losses of single pictures.
    attention: what the model's cross-attention looks at, None where the loss does not use it.
    plan: of its memory, None where that is not known. compiled: its blocks, None where they are
    not.
    """

    started: datetime
    loan: Loan
    text_encoder: TextEncoder | None
    examples: list[Example]
    prior_examples: list[Example]
    adapters: Adapters
    checkpointing: GradientCheckpointing
    loss_fn: LossFunction
    attention: EntropyRecord | None
    run: Run
    probes: Probes
    plan: Plan | None = None
    compiled: CompiledBlocks | None = None

    @property
    def all_examples(self) -> list[Example]:
        """Returns the examples of the subject and of the prior, and those that are held out."""
        return self.examples + self.prior_examples + self.probes.held_out

    def steps(self) -> Iterator[Step]:
        """Returns the steps that are left of the run."""
        steps = partial(self.run.steps, self.loss_fn, self.attention)
        return steps() if self.compiled is None else self.compiled.steps(self.run, steps)


@contextmanager
def set_up(
    model, inputs: Inputs, choices: Choices, say: Callable[[Note], None] = lambda note: None
) -> Iterator[Setup]:
    """Yields a training that is ready for its first step. Afterwards everything is undone in the
    opposite order: attention, gradient checkpointing, compiled blocks, adapters, and the loan at
    last. `say` is called with what turns out otherwise than chosen. Raises ValueError where the
    inputs or choices don't suit the model.
    """
    started = datetime.now(timezone.utc)
    with ExitStack() as stack:
        clips = [choices.text.clip.patcher] if choices.text.used else []
        loan = stack.enter_context(lent(model, *clips))
        layers, text_encoder = choices.target.chosen(loan.inner), None
        if choices.text.used:
            text_encoder = TextEncoder(choices.text.clip, loan)
            inputs = encoded(inputs, text_encoder)
            layers = layers | choices.text.chosen(text_encoder.patcher.model)
        options = loan.attention.options(model.model_options.get("transformer_options", {}))
        options |= as_sampled(loan.inner, loan.patcher.load_device)
        examples = checked_examples(model, loan.inner, inputs.subject, options)
        if inputs.preserved is not None:
            with naming("Of the class to preserve"):
                of_class = checked_examples(model, loan.inner, inputs.preserved[0], options)
            examples = with_class(examples, of_class, inputs.preserved[1])
        prior_examples = []
        if inputs.prior is not None:
            with naming_the_prior():
                prior_examples = checked_examples(model, loan.inner, inputs.prior, options)
        held_out = []
        if inputs.held_out is not None:
            with naming("Of the validation"):
                held_out = checked_examples(model, loan.inner, inputs.held_out, options)
            held_out = list(distinct(held_out, inputs.held_out.names, len(held_out)).values())
        start = choices.start.adapter(model, choices.text.clip)
        layers = layers_to_train(loan, layers, start, choices, text_encoder, say)
        plan = planned(Task(loan, layers, start, examples, prior_examples, options, choices))
        if plan is not None:
            loan.leave_room(plan.beside, plan.ahead)
            if plan.overwrites:
                stack.enter_context(remembered(loan.inner.diffusion_model))
        if choices.straight_through:  # after the plan, whose pass has no values to quantise
            loan.frozen.straight_through()
        settings = beginning_at(choices.rank, plan)
        adapters = attach_to(loan, layers, start, settings, choices, text_encoder)
        stack.callback(adapters.detach)
        check_budget(adapters)
        compiled = None
        if choices.torch_compile:
            compiled = compiled_blocks(loan, adapters, say, stack)
            if compiled is not None:  # finds out what layers compute with
                forward(loan.inner, examples[0], options)
        models = [patcher.model for patcher in loan.patchers]
        checkpointing = GradientCheckpointing(models, adapters, stack)
        offload = choices.checkpointing == "offload" or (plan is not None and plan.offloaded > 0)
        if offload or choices.checkpointing == "on" or (plan is not None and plan.checkpointing):
            checkpointing.turn_on(offload=offload)
        attention = None
        if adapters.settings.attention_weight:
            attention = EntropyRecord()
            recorded = recorded_attention(loan.inner, attention, options[OVERRIDE])
            options[OVERRIDE] = stack.enter_context(recorded)
        renew = text_encoder and text_encoder.renewed
        preservation = None
        if inputs.preserved is not None:
            rest = choices.preserve.preserve_weight, options, choices.loss, renew
            preservation = Preservation(loan.inner, adapters.off, *rest)
        several = examples, prior_examples, options, choices, renew, preservation
        loss_fn = loss_function(loan.inner, *several)
        half = loan.inner.get_dtype_inference() == torch.float16
        run = Run(adapters, choices.training, half=half, processes=Processes.joined())
        pictures = {}
        if choices.validation.picture_losses:
            pictures = distinct(examples, inputs.subject.names, PICTURES)
        probes = Probes(
            loan.inner, held_out, list(pictures.values()), list(pictures),
            options, choices.loss, choices.batch_size, renew,
        )  # fmt: skip
        yield Setup(
            started, loan, text_encoder, examples, prior_examples,
            adapters, checkpointing, loss_fn, attention, run, probes, plan, compiled,
        )  # fmt: skip


def encoded(inputs: Inputs, text_encoder: TextEncoder) -> Inputs:
    """Returns the inputs with captions that the text encoder on loan has made of their texts."""
    subject, prior = text_encoder.encoded(inputs.subject), inputs.prior
    held_out = inputs.held_out and text_encoder.encoded(inputs.held_out)
    if prior is not None:
        with naming_the_prior():
            prior = text_encoder.encoded(prior)
    preserved = inputs.preserved
    if preserved is not None:
        preserved = text_encoder.encoded(preserved[0]), preserved[1]
    return Inputs(subject, prior, held_out, preserved)


def checked_examples(model, inner, pictures: Pictures, options: dict) -> list[Example]:
    """Returns the examples of pictures. Raises ValueError where the model can't compute with one;
    `options` are its transformer_options.
    """
    examples = make_examples(model, inner, pictures)
    check_model_takes(inner, examples, pictures.captions, options)
    return examples


def layers_to_train(
    loan: Loan,
    chosen: Mapping[str, nn.Module],
    start: RankedLora | None,
    choices: Choices,
    text_encoder: TextEncoder | None,
    say: Callable[[Note], None],
) -> dict[str, nn.Module]:
    """Returns the chosen layers of the models on loan, and those of the adapter that the run starts
    from. `say` is called with what is left out of it.
    """
    modules = dict(loan.inner.named_modules())
    if text_encoder is not None:
        modules |= text_layers(text_encoder.patcher.model)
    return choices.start.layers(chosen, start, modules, say)


def attach_to(
    loan: Loan,
    layers: Mapping[str, nn.Module],
    start: RankedLora | None,
    settings: RankSettings,
    choices: Choices,
    text_encoder: TextEncoder | None,
) -> Adapters:
    """Returns adapters on these layers of the models on loan."""
    speeds = {}
    if text_encoder is not None:
        theirs = text_layers(text_encoder.patcher.model)
        speeds = dict.fromkeys(theirs, choices.text.speed(choices.training.learning_rate))
    return attach(
        loan.inner,
        layers,
        settings,
        seed=choices.training.seed,
        device=comfy.model_management.get_torch_device(),
        start=start,
        speeds=speeds,
        frozen=loan.frozen.of,
    )


def loss_function(
    inner,
    examples: list[Example],
    prior_examples: list[Example],
    options: dict,
    choices: Choices,
    renew: Renew | None,
    preservation: Preservation | None = None,
) -> LossFunction:
    """Returns loss_fn(generator) of a random batch, with one of the prior where there is one, or of
    the parts of a step: of a step that is accumulated, or in which a class is preserved.
    """
    parts = choices.batch_size, options, choices.loss, renew
    accumulation = choices.gradient_accumulation_steps
    if accumulation > 1 or preservation is not None:
        both = examples, prior_examples, choices.prior.prior_weight
        rest = accumulation, *parts[1:], preservation
        return make_parts(inner, *both, choices.batch_size, *rest)
    if not prior_examples:
        return make_loss(inner, examples, *parts)
    weight = choices.prior.prior_weight
    return make_joint_loss(inner, examples, prior_examples, weight, *parts)


def check_budget(adapters: Adapters) -> None:
    """Raises ValueError where the budget does not hold one rank of every single layer: the layer
    that is worth most would then not fit.
    """
    budget = adapters.settings.budget_mb
    largest = max(c.cost for c in adapters.components.values())
    if adapters.mode.competes and budget > 0 and adapters.ceiling < largest:
        one, all_of_them = megabytes(largest), megabytes(float(adapters.cost))
        raise ValueError(
            f"budget_mb is {budget:g}, but one rank of the largest layer takes {one:.2g} MB, so "
            f"nothing might be left at the end: give more, at best above {all_of_them:.2g}, which "
            "is one rank in every layer."
        )
