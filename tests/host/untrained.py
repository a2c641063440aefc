"""An adapter without a training: for what does not depend on what was learned."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher

from lora2_core import RankedLora, RankSettings
from lora2_core.host.naming import base_facts, diffusers_paths, model_names, peft_part
from lora2_core.host.training.loan import on_loan
from lora2_core.layers.adapters import attach
from lora2_core.layers.finish import finish
from lora2_core.layers.targets import TargetSettings


def untrained(model: ModelPatcher, target: TargetSettings | None = None) -> RankedLora:
    """Returns an adapter with a random update of rank 2 in each layer that a training with these
    targets adapts, and the names that it gives to the file.
    """
    generator, paths = torch.Generator().manual_seed(0), diffusers_paths(model)
    info = {"base": base_facts(model), "diffusers": paths, "part": peft_part(model, paths)}
    info["names"] = model_names(model)
    with on_loan(model) as inner:
        layers = (target or TargetSettings()).chosen(inner)
        adapters = attach(inner, layers, RankSettings(mode="fixed", target_rank=2))
        try:
            for component in adapters.components.values():
                component.lora_up.data.normal_(0, 0.1, generator=generator)
            return finish(adapters, info)
        finally:
            adapters.detach()
