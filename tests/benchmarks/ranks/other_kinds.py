"""Trains LoKr and OFT of lycoris-lora on the layers, pictures, noise and optimizer of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import torch
from torch import nn

from lora2_core import RankedLora
from lora2_core.adapter.origin import Origin
from lora2_core.adapter.other_kinds import OtherChange
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.inputs import check_inputs
from lora2_core.host.training.loan import lent
from lora2_core.host.training.objective import make_loss
from lora2_core.host.training.setup import checked_examples
from lora2_core.host.training.timesteps import with_usual
from tests.benchmarks.held_out import Pictures
from tests.benchmarks.ranks.rivals import NO_SETTING

Setting = Mapping[str, object]
FACTORS = (-1, 2, 3, 4, 6, 8, 12, 16, 24)
DIMENSIONS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
BLOCKS = range(2, 33)  # a block of 1 x 1 changes nothing


def settings_of(kind: str) -> Iterator[Setting]:
    """Returns the settings of a kind that are tried for a size, the same for all layers; LoKr's
    scale is 1 in all of them.
    """
    if kind == "oft":
        yield from ({"lora_dim": block} for block in BLOCKS)
        return
    for factor, dim, both, tucker in product(FACTORS, DIMENSIONS, (False, True), (False, True)):
        yield {"factor": factor, "lora_dim": dim, "alpha": dim, "decompose_both": both,
               "use_tucker": tucker}  # fmt: skip


def module_of(kind: str, name: str, layer: nn.Module, setting: Setting) -> nn.Module:
    """lycoris-lora's module beside a layer."""
    from lycoris.logging import logger
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.lokr import LokrModule

    logger.setLevel(logging.ERROR)
    return {"lokr": LokrModule, "oft": DiagOFTModule}[kind](name, layer, 1.0, **setting)


def change_of(module: nn.Module) -> OtherChange:
    """Returns what a module has learned, as its file has it; its scale is 1, so that alpha is left
    out.
    """
    tensors = {f".{n}": t.detach().half() for n, t in module.state_dict().items()}
    return OtherChange({ending: t for ending, t in tensors.items() if ending != ".alpha"})


def parameters_of(kind: str, layers: Mapping[str, nn.Module], setting: Setting) -> int:
    """Of all layers, in their file."""
    found = 0
    for layer in layers.values():
        tensors = change_of(module_of(kind, "layer", layer, setting)).tensors
        found += sum(t.numel() for t in tensors.values())
    return found


def setting_for(kind: str, layers: Mapping[str, nn.Module], parameters: float) -> Setting:
    """Returns the setting that comes nearest to so many parameters and not above; ValueError
    without one.
    """
    with torch.inference_mode(False), torch.no_grad():
        sizes = [(parameters_of(kind, layers, s), s) for s in settings_of(kind)]
    if not (fitting := [pair for pair in sizes if pair[0] <= parameters]):
        raise ValueError(f"{kind} at {parameters:g} parameters: {NO_SETTING}.")
    return max(fitting, key=lambda pair: pair[0])[1]


@contextmanager
def attached(
    kind: str, layers: Mapping[str, nn.Module], setting: Setting, seed: int
) -> Iterator[dict[str, nn.Module]]:
    """Modules beside the layers, which compute as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = {name: module_of(kind, name, m, setting) for name, m in layers.items()}
    before = {name: m.__dict__.get("forward") for name, m in layers.items()}
    for module in modules.values():
        module.apply_to()
    try:
        yield modules
    finally:
        for name, module in modules.items():
            module.restore()
            if before[name] is None:
                del layers[name].__dict__["forward"]


def train(model, pictures: Pictures, choices: Choices, kind: str, setting: Setting) -> RankedLora:
    """Returns the adapter after the steps of `choices`, whose rank settings say the schedule and
    the weight decay alone.
    """
    choices = replace(choices, loss=with_usual(choices.loss, model))
    subject = check_inputs(model, *pictures, choices).subject
    training = choices.training.resolved(choices.rank.rules)
    rates = training.rates()
    with lent(model) as loan:
        options = loan.attention.options(model.model_options.get("transformer_options", {}))
        examples = checked_examples(model, loan.inner, subject, options)
        loss_fn = make_loss(loan.inner, examples, choices.batch_size, options, choices.loss)
        layers = choices.target.chosen(loan.inner)
        with attached(kind, layers, setting, training.seed) as modules:
            weights = [p for module in modules.values() for p in module.parameters()]
            optimizer = torch.optim.AdamW(
                weights, betas=(training.beta1, training.beta2),
                weight_decay=training.weight_decay / sum(rates), fused=True,
            )  # fmt: skip
            generator = torch.Generator().manual_seed(training.seed)
            for rate in rates:
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                loss_fn(generator).backward()
                optimizer.step()
            others = {name: change_of(module) for name, module in modules.items()}
    return RankedLora({}, Origin(run=replace(Origin().run, settings=setting)), others=others)
