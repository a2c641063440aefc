"""Applies an adapter with the structure that a user gives it: a strength for each block and over
the sampling; and as the host's hooks, for single conditionings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from comfy.hooks import HookGroup

from ..adapter.lora import RankedLora
from ..adapter.strengths import Strengths
from .apply import adopt, apply_lora, patches_of, warn_of_missing
from .lora_files import read_lora
from .lora_stack import StackEntry
from .strengths import by_factor, hooks_of, path_of, scheduled


@dataclass(frozen=True)
class Applied:
    """Holds what an adapter was applied to, clones of the model and the clip; and the adapter as
    the host's hooks.
    """

    model: object
    clip: object
    hooks: HookGroup


def apply_stack(model, clip, entries: Iterable[StackEntry]):
    """Returns clones of model and clip with the LoRAs of a stack added, each at its strengths."""
    for entry in entries:
        lora = adopt(read_lora(entry.name), model, clip)
        model, clip = apply_lora(model, clip, lora, entry.strength_model, entry.strength_clip)
    return model, clip


def apply_structured(
    model,
    clip,
    lora: RankedLora,
    strength: tuple[float, float],
    targets: Mapping,
    strengths: Strengths | None = None,
) -> Applied:
    """Returns clones of model and clip with the adapter's updates added, and its hooks. With a
    schedule, the model's updates come and go during a sampling.

    strength: of model and clip. targets: what `resolve` returned for the adapter. strengths:
    factors by block and over the sampling; None for 1 everywhere.
    """
    with torch.inference_mode(False):
        patches = patches_of(lora, targets)
    groups = by_factor(patches, strengths, model)
    hooks = hooks_of(groups, strengths, *strength)
    if strengths is not None and strengths.varies:
        patched = scheduled(model, hooks)
        added = {key for key in patches if path_of(key) is not None}
    else:
        patched, added = model.clone(), set()
        for factor, group in groups.items():
            added |= set(patched.add_patches(group, strength[0] * factor))
    if clip is not None:
        clip = clip.clone()
        for factor, group in groups.items():
            text = {key: patch for key, patch in group.items() if path_of(key) is None}
            added |= set(clip.add_patches(text, strength[1] * factor))
    warn_of_missing(set(patches) - added)
    return Applied(patched, clip, hooks)
