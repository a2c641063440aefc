"""Applies an adapter with a strength for each block, and over the sampling, through the host's own
weight patches, hooks and keyframes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import comfy.hooks
from comfy.hooks import HookGroup, HookKeyframe, HookKeyframeGroup, WeightHook
from comfy.patcher_extension import WrappersMP

from ..adapter.names import HOST_PREFIX
from ..adapter.strengths import HOLD, Strengths
from ..layers.parts import PARTS, part_of, parts
from ..layers.structure import is_layer
from .naming import weight_of

KEY = "lora2_schedule"  # of the sampling wrapper on a model
TEXT_LAYER = "text_encoders.layer"  # stands for all layers of text encoders
# shown in nodes; locales/*/main.json has them in other languages
BLOCKS_NOTE = "Strength by block: {0}."
SCHEDULE_NOTE = "Strength over the sampling: {0}."
ABSENT_NOTE = "This model has no blocks of these parts, whose strength is set: {0}."
Patches = Mapping[object, object]  # the host's key of a weight -> the host's patch


def path_of(key: str | tuple) -> str | None:
    """Returns the module path of a weight or bias of the denoiser; None for other models."""
    name = weight_of(key)
    if not name.startswith(HOST_PREFIX):
        return None
    return name.removeprefix(HOST_PREFIX).rpartition(".")[0]


def check_blocks(strengths: Strengths, model) -> None:
    """Raises ValueError where an entry of blocks fits no layer of the model."""
    modules = model.model.diffusion_model.named_modules()
    names = [f"{HOST_PREFIX}{name}" for name, module in modules if is_layer(module)]
    strengths.blocks.check([*names, TEXT_LAYER])


def by_factor(patches: Patches, strengths: Strengths | None, model) -> dict[float, dict]:
    """Returns factor -> the patches that it is for, in their order."""
    if strengths is None:
        return {1.0: dict(patches)}
    factor = factor_of(strengths, model)
    groups: dict[float, dict] = {}
    for key, patch in patches.items():
        groups.setdefault(factor(key), {})[key] = patch
    return groups


def factor_of(strengths: Strengths, model) -> Callable[[str | tuple], float]:
    """Returns a function from the host's key of a weight to its factor."""
    blocks = parts(model.model.diffusion_model)

    def factor(key: str | tuple) -> float:
        path = path_of(key)
        if path is None:
            return strengths.blocks.factor(TEXT_LAYER)
        return strengths.factor(HOST_PREFIX + path, part_of(path, blocks))

    return factor


def notes_of(strengths: Strengths, targets: Mapping, model) -> list[list]:
    """Returns what the user is told: the factors with the layers that they are for, the schedule,
    and factors of parts that the model lacks.

    targets: layer of the adapter -> the host's key of its weight.
    """
    factor = factor_of(strengths, model)
    counts = Counter(factor(key) for key in targets.values() if path_of(key) is not None)
    notes = []
    if set(counts) - {1.0}:
        listed = ", ".join(f"{f:g} \u00d7 {n}" for f, n in sorted(counts.items(), reverse=True))
        notes.append([BLOCKS_NOTE, listed])
    there = set(parts(model.model.diffusion_model).values()) | {PARTS[-1]}
    if absent := [part for part, f in strengths.parts.items() if f != 1 and part not in there]:
        notes.append([ABSENT_NOTE, ", ".join(absent)])
    if strengths.varies:
        said = ", ".join(f"{start:g}: {f:g}" for start, f in strengths.schedule)
        notes.append([SCHEDULE_NOTE, said])
    return notes


def keyframes_of(strengths: Strengths | None) -> HookKeyframeGroup:
    """Returns the schedule as the host's keyframes, empty for a strength that never changes."""
    group = HookKeyframeGroup()
    if strengths is not None and strengths.varies:
        for number, (start, factor) in enumerate(strengths.keyframes()):
            steps = 1 if number == 0 or strengths.between == HOLD else 0
            group.add(HookKeyframe(factor, start_percent=start, guarantee_steps=steps))
    return group


def hooks_of(
    groups: Mapping[float, Patches], strengths: Strengths | None, model: float, clip: float
) -> HookGroup:
    """Returns the host's hooks of an adapter: one for each factor, all with the same keyframes.

    groups: what `by_factor` returned. model, clip: the strengths.
    """
    found, keyframes = HookGroup(), keyframes_of(strengths)
    for factor, patches in groups.items():
        hook = WeightHook(strength_model=model * factor, strength_clip=clip * factor)
        hook.weights = {k: p for k, p in patches.items() if path_of(k) is not None}
        hook.weights_clip = {k: p for k, p in patches.items() if path_of(k) is None}
        hook.need_weight_init = False
        hook.hook_keyframe = keyframes
        found.add(hook)
    return found


def scheduled(model, hooks: HookGroup):
    """Returns a clone of a model that is sampled with these hooks, whatever its conditioning is.

    The hooks are registered on the clone, and each conditioning gets them when a sampling begins;
    the host then follows their keyframes, and puts the weights back. Dynamic VRAM has no hooks:
    as the host itself does for them, a model without it is used.
    """
    clone = model.get_non_dynamic_delegate() if model.is_dynamic() else model.clone()
    target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
    for hook in hooks.hooks:
        hook.add_hook_patches(clone, clone.model_options, target, HookGroup())

    def sample(executor, *arguments: object, **named: object) -> object:
        attach(executor.class_obj.conds, hooks)
        return executor(*arguments, **named)

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
    return clone


def attach(conds: Mapping[str, list[dict]], hooks: HookGroup) -> None:
    """Adds hooks to all conditioning of a sampling. Conditioning that had the same hooks before has
    the same ones after, so that the host still computes it together.
    """
    joined: dict[int, HookGroup] = {}
    for each in (cond for part in conds.values() for cond in part):
        before = each.get("hooks")
        if before is None:
            each["hooks"] = hooks
        else:
            each["hooks"] = joined.setdefault(id(before), before.clone_and_combine(hooks))
