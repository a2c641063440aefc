"""Says what training a model would need before there are pictures or captions: it assumes square
pictures and captions of the width that the model takes, which it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from .choices import Choices
from .examples import UNFIT, Example, encode
from .frozen import FrozenLayers
from .loan import Loan
from .memory_plan import Plan, plan, size, too_little
from .memory_trial import shape_of_loss
from .objective import DEFAULT
from .room import PLANNED, Task, available_memory, begins_lower, wanted_memory
from .valueless import without_values

TOKENS, TOKENS_OF_T5 = 77, 256  # of a caption: UNets, and all others
RATIO = 8  # pixels to a latent's side, where the model's format does not say
# widths that no model has, so that what gets a caption or a pooled one is known by them
WIDTH, POOLED = 57, 1013
TRIES = 8
MOST_SIDES = 3  # of a caption; norms of pictures may have their channels elsewhere than last


class Misfit(Exception):
    """Carries the width that a layer got, and the one that it takes."""

    def __init__(self, got: int, takes: int):
        super().__init__(f"{takes} wide, not {got}")
        self.got, self.takes = got, takes


@contextmanager
def unloaded(model) -> Iterator[Loan]:
    """Yields a model as on loan, whose weights are not loaded and must not be used."""
    loan = Loan(model)
    with torch.inference_mode(False), torch.enable_grad():
        loan.frozen = FrozenLayers(loan.modules())
        try:
            yield loan
        finally:
            loan.frozen.remove()


def memory_line(model, choices: Choices, pixels: int) -> str:
    """Returns what a run on square pictures of so many pixels a side needs, as a line of text:
    empty where there is no card, or the need isn't known.
    """
    found = estimated(model, choices, pixels)
    if found is None:
        return ""
    made, remedies = found
    needs, there = size(made.need.all), size(made.available)
    return (
        f"a run needs about {needs} of {there} GB at {pixels} x {pixels}, batch_size "
        f"{choices.batch_size}. {' '.join([*made.measures, remedies])}"
    ).rstrip()


def estimated(model, choices: Choices, pixels: int) -> tuple[Plan, str] | None:
    """Returns the plan of a run on square pictures of so many pixels a side, and a sentence with
    remedies, empty where it fits. None where there is no card or the need isn't known.
    """
    device = model.load_device
    if device.type not in PLANNED:
        return None
    with unloaded(model) as loan:
        layers = choices.target.chosen(loan.inner)
        example = assumed(loan.inner, pixels)
        if example is None:
            return None
        wanted = wanted_memory(Task(loan, layers, None, [example], [], {}, choices))
    if wanted is None:
        return None
    lower = begins_lower(None, choices)
    made = plan(wanted, available_memory(device), choices.checkpointing, lower_start=lower)
    return made, "" if made.fits else too_little(wanted, made, choices.batch_size)


def assumed(inner, pixels: int) -> Example | None:
    """Returns an example that the model takes, None where none is found."""
    form = inner.latent_format
    side = max(1, pixels // (getattr(form, "spatial_downscale_ratio", None) or RATIO))
    sides = {1: (side,), 2: (side, side), 3: (1, side, side)}[getattr(form, "latent_dimensions", 2)]
    latent = torch.zeros(1, form.latent_channels, *sides)
    tokens = TOKENS if isinstance(inner.diffusion_model, UNetModel) else TOKENS_OF_T5
    masks: list[dict] = [{}, {"attention_mask": torch.ones(1, tokens, dtype=torch.int64)}]
    for more in masks:
        width, pooled = WIDTH, POOLED
        for _ in range(TRIES):
            facts = {"pooled_output": torch.zeros(1, pooled), **more}
            try:
                conditions = encode(inner, [torch.zeros(1, tokens, width), facts], latent)
                example = Example(latent, conditions)
                try_widths(inner, example)
            except Misfit as error:
                if error.got % width == 0 and width == WIDTH:
                    width = max(1, error.takes * width // error.got)
                elif pooled == POOLED and error.got >= pooled:
                    pooled += error.takes - error.got
                else:
                    break
            except UNFIT:
                break
            else:
                return example
    return None


def try_widths(inner, example: Example) -> None:
    """Computes the model without values. Raises Misfit for the first layer or norm that gets
    another width than it takes.
    """

    def check(module: nn.Module, args: tuple) -> None:
        if not args or not torch.is_tensor(x := args[0]):
            return
        takes = getattr(module, "in_features", None)
        if takes is None and x.ndim <= MOST_SIDES:
            *_, takes = getattr(module, "normalized_shape", [None])
        if takes is not None and x.shape[-1] != takes:
            raise Misfit(x.shape[-1], takes)

    with ExitStack() as stack:
        stack.enter_context(without_values(inner))
        stack.enter_context(torch.no_grad())
        for module in inner.modules():
            stack.callback(module.register_forward_pre_hook(check).remove)
        loss: Tensor = shape_of_loss(inner, [example], {}, DEFAULT)
        del loss
