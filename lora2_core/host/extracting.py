"""Gives an extracted adapter what is known of its model, so that it can be saved in any form."""

from __future__ import annotations

from dataclasses import replace

from ..adapter.extracting import Extracted, ExtractSettings
from ..adapter.lora import RankedLora
from ..adapter.model_order import order_key
from ..adapter.origin import BaseModel, Origin, RunFacts
from .families import family_names
from .model_pairs import Weights
from .naming import base_facts, diffusers_paths, model_names, peft_part
from .unet_names import unet_names


def as_adapter(
    out: Extracted, model, tuned: Weights, base: Weights, settings: ExtractSettings
) -> RankedLora:
    """Returns an extracted adapter with its layers in the order of the model.

    model: the one that was connected, None for files, whose model is known by its names.
    """
    layers = {n: out.lora.layers[n] for n in sorted(out.lora.layers, key=order_key)}
    lora = replace(out.lora, layers=layers)
    facts = {
        "tuned": tuned.title, "base": base.title, "budget_mb": settings.budget_mb,
        "tolerance": settings.tolerance, "error": out.error,
    }  # fmt: skip
    origin = Origin(run=RunFacts(settings={"extracted": facts}), base=known_model(lora, model))
    return replace(lora, origin=origin)


def known_model(lora: RankedLora, model) -> BaseModel:
    """Returns what is known of the model that the layers belong to."""
    if model is not None:
        paths = diffusers_paths(model)
        return BaseModel(
            diffusers=paths, names=model_names(model), part=peft_part(model, paths),
            **base_facts(model),
        )  # fmt: skip
    if unet := unet_names([lora]):
        return BaseModel(names=unet.names, diffusers=unet.diffusers)
    return BaseModel(names=family_names(lora))
