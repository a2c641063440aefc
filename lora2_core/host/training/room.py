"""Makes room on the card for a run: asks the host what there is, and plans what the run does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import nn

from ...adapter.lora import RankedLora
from ...layers.starting import first_ranks, starting_layers
from ...layers.targets import components
from ...ranks.layer_ranks import lines_of
from ...ranks.settings import RankSettings
from ...saying import log
from .choices import Choices
from .examples import Example
from .loan import Loan, loaded_on
from .memory_plan import SURE, Plan, Wanted, plan, too_little
from .memory_trial import try_shapes

# devices whose memory is the card's own, and whose attention keeps no matrix of all pairs
PLANNED = ("cuda", "xpu")


def available_memory(device: torch.device) -> int:
    """Returns the bytes that a run can have on a device, frozen weights included: what is free, and
    what the host would free by unloading models, less what it reserves.
    """
    management = comfy.model_management
    free = management.get_free_memory(device)
    return max(0, int(free + loaded_on(device) - management.extra_reserved_memory()))


@dataclass(frozen=True)
class Task:
    """Holds what the memory of a run depends on: models on loan and the layers that are trained, an
    adapter to start from, pictures, the model's transformer_options, and what was chosen.
    """

    loan: Loan
    layers: Mapping[str, nn.Module]
    start: RankedLora | None
    examples: list[Example]
    prior_examples: list[Example]
    options: dict
    choices: Choices


def planned(task: Task) -> Plan | None:
    """Returns the plan of a run on a card, None where there is none or its need isn't known. Raises
    ValueError where it does not fit for sure, with the cheapest remedies.
    """
    device, choices = task.loan.patcher.load_device, task.choices
    if device.type not in PLANNED:
        return None
    wanted = wanted_memory(task)
    if wanted is None:
        return None
    lower = begins_lower(task.start, choices)
    made = plan(wanted, available_memory(device), choices.checkpointing, lower_start=lower)
    if SURE * made.need.least > made.available:
        raise ValueError(too_little(wanted, made, choices.batch_size))
    log.info("LoRA2 Train: %s", made.text)
    return made


def begins_lower(start: RankedLora | None, choices: Choices) -> bool:
    """Returns whether a run may begin with lower ranks than its mode's own."""
    return start is None and choices.rank.start_rank is None and choices.rank.rules.competes


def wanted_memory(task: Task) -> Wanted | None:
    """Returns what decides a run's need, None where its model can't compute without values."""
    loan, layers, choices = task.loan, task.layers, task.choices
    settings, rules = choices.rank, choices.rank.rules
    lines = lines_of(settings.layer_ranks, layers)
    parts = components(layers, lines, settings.max_rank, "meta")
    wanted = {name: line.wanted(moves=rules.moves) for name, line in lines.items()}
    own = {name: rank for name, rank in wanted.items() if rank is not None}
    given = starting_layers(task.start, parts) if task.start is not None else {}
    ranks = first_ranks(parts, settings, own, given)
    groups = [group for group in (task.examples, task.prior_examples) if group]
    batches = [largest(group, choices.batch_size) for group in groups]
    models = [patcher.model for patcher in loan.patchers]
    rest = batches, layers, ranks, task.options, choices.loss
    trial = try_shapes(models, loan.inner, loan.frozen.of, *rest)
    if trial is None:
        return None
    return Wanted(
        weights=sum(patcher.model_size() for patcher in loan.patchers),
        parameters=sum(parts[name].cost * rank for name, rank in ranks.items()),
        rank=max(ranks.values()),
        target=min(settings.target_rank, max(ranks.values())),
        trial=trial,
        training=choices.training,
    )


def largest(examples: list[Example], batch_size: int) -> list[Example]:
    """Returns a batch of the example that needs most memory: the largest picture, of those the one
    with the longest caption.
    """

    def values(example: Example) -> tuple[int, int]:
        conditions = (getattr(c, "cond", None) for c in example.conditions.values())
        return example.latent.numel(), sum(c.numel() for c in conditions if torch.is_tensor(c))

    return [max(examples, key=values)] * batch_size


def beginning_at(settings: RankSettings, made: Plan | None) -> RankSettings:
    """Returns the settings with the start rank of a plan, where it has one."""
    if made is None or made.start_rank is None:
        return settings
    return replace(settings, start_rank=made.start_rank)
