"""Gives the layers of an adapter the names of a form of file.

With the model's names known, every name is checked against those that ComfyUI reads, and layers are
split or joined where the form wants it. Without them, a name is changed by the rules that hold for
every model, and one that they don't cover is refused, never written for no loader to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from .lora import LoraLayer, RankedLora
from .model_names import ModelNames, Target
from .names import (
    CLIP_LAYER,
    FILE_PREFIXES,
    HOST_PREFIX,
    complete_map,
    kohya_name,
    module_path,
    part_of,
    peft_name,
    split_key,
)
from .other_kinds import split_other
from .pieces import FLUX, PIECES, TEXT_PARTS, unsaid
from .slices import part, swapped

# the beginnings of module paths in diffusers' UNets
_UNET = re.compile(
    r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding)\b"
)
# names after `diffusion_model.` that may be other programs' words for the rows of a weight
_ALIAS = re.compile(
    r"\.to_(q|k|v|gate|out)(\.0)?$|linear1_qkv|_attn_(qkv|proj)|_mod\.linear|mlp\.fc[12]"
    r"|^text_fusion|^all_|ff\.(gate|up|down)$"
)


@dataclass(frozen=True)
class Expressed:
    """Holds an adapter whose layers are those of a file, and layer -> its name there."""

    lora: RankedLora
    bases: Mapping[str, str]


def expressed(
    lora: RankedLora, form: str, diffusers: Mapping[str, str], *, sure: bool = True
) -> Expressed:
    """Returns the adapter with layers and names as a form of file has them; ValueError in one
    sentence where it can't be said in that form.

    diffusers: module path -> diffusers' path, used where it has every layer. sure: refuse names
    that the rules don't cover.
    """
    names = list(dict.fromkeys([*lora.layers, *lora.others]))
    known = lora.origin.base.names
    if form == "original":
        found = Expressed(lora, original_names(lora, names))
    elif known is None:
        found = Expressed(lora, by_rules(lora, names, form, diffusers, sure=sure))
    else:
        found = by_model(lora, names, form, known, diffusers)
    first: dict[str, str] = {}
    for name in dict.fromkeys([*found.lora.layers, *found.lora.others]):
        if (other := first.setdefault(found.bases[name], name)) != name:
            if not {name, other} <= found.lora.layers.keys():
                continue  # a pair, and what is beside it
            raise ValueError(
                f"Layers {other} and {name} have the same name in the {form} format: load the "
                "adapter with its model first, by LoRA2 Load."
            )
    return found


def base_of(key: str) -> str:
    """Returns the layer's name in the key of one of its tensors."""
    named = split_key(key) or split_other(key)
    return key if named is None else named[0]


def original_names(lora: RankedLora, names: Iterable[str]) -> dict[str, str]:
    """Returns layer -> its name in the file that the adapter came from."""
    keys = lora.origin.file.keys
    for name in names:
        if name not in keys and (name in lora.others or lora.layers[name].rank):
            raise ValueError(
                f"format is original, but layer {name} comes from no file: choose kohya."
            )
    return {name: base_of(keys.get(name, name)) for name in names}


def by_rules(
    lora: RankedLora, names: list[str], form: str, diffusers: Mapping[str, str], *, sure: bool
) -> dict[str, str]:
    """Returns layer -> its name in a file, of an adapter whose model isn't known."""
    paths = complete_map(names, diffusers)
    base = lora.origin.base
    usual: dict[str, Callable[[str], str]] = {
        "peft": lambda name: peft_name(name, paths, base.part),
        "comfy": host_name,
        "nunchaku": lambda name: name,
    }
    found = {}
    for name in names:
        said = usual[form](name) if form in usual else kohya_name(name, paths)
        foreign = base_of(lora.origin.file.keys.get(name, "")) == name
        if sure and foreign and form == "peft" and name.startswith(HOST_PREFIX):
            said = name  # diffusers converts the names of ComfyUI
        if form == "nunchaku" and not FLUX.match(name):
            raise ValueError(f"nunchaku reads LoRAs of Flux, but there is a layer {name}.")
        if sure and foreign and not is_sure(name, said, form):
            raise unsaid(name, form)
        found[name] = said
    return found


def host_name(layer: str) -> str:
    """Returns a layer's name as ComfyUI itself would write it; ValueError for a kohya name."""
    if CLIP_LAYER.fullmatch(layer) or layer.startswith((*TEXT_PARTS, "text_encoders.")):
        return peft_name(layer)
    if layer.startswith(FILE_PREFIXES) or part_of(layer):
        raise unsaid(layer, "comfy")
    return HOST_PREFIX + layer.removeprefix(HOST_PREFIX)


def is_sure(name: str, said: str, form: str) -> bool:
    """Returns whether a name from a file of another program means the same layer in every model
    under the name that the rules give it.
    """
    if name.startswith(FILE_PREFIXES):
        return said == name or bool(CLIP_LAYER.fullmatch(name))
    own = part_of(name) or ""
    if own in TEXT_PARTS or _UNET.match(module_path(name, own)):
        return form != "comfy"
    if name.startswith(HOST_PREFIX):
        same_dialect = form == "peft" and said == name
        return same_dialect or not _ALIAS.search(name.removeprefix(HOST_PREFIX))
    return said == name and form in ("peft", "nunchaku")


def by_model(
    lora: RankedLora, names: list[str], form: str, known: ModelNames, diffusers: Mapping[str, str]
) -> Expressed:
    """Returns the adapter in a form, of a model whose names are known."""
    places = {name: place_of(name, known) for name in names}
    strange = [name for name, place in places.items() if place is None]
    bases = {name: name for name in strange}
    if form != "whole":
        bases = by_rules(lora, strange, form, diffusers, sure=True)
    layers = {name: lora.layers[name] for name in strange if name in lora.layers}
    others = {name: lora.others[name] for name in strange if name in lora.others}
    held: dict[str, list[str]] = {}
    for name, place in places.items():
        if place is not None:
            held.setdefault(place.path, []).append(name)
    pieces = PIECES[form](known, list(held), lora, diffusers)
    sensitivity = dict(lora.origin.learned.sensitivity)
    for path, those in held.items():
        pairs = [name for name in those if name in lora.layers]
        for said, target in pieces(path) if pairs else ():
            if (made := piece(said, target, pairs, lora, places, known)) is None:
                continue
            name, layer = made
            layers[name], bases[name] = layer, said
            if sensitivity and name not in sensitivity:
                sensitivity[name] = fmean(sensitivity.get(n, 1.0) for n in pairs)
        for name in those:
            if name in lora.others:
                said = name_of_other(name, places[name], pieces(path), known, form)
                here = said if name in layers and bases.get(name) != said else name
                others[here], bases[here] = lora.others[name], said
    learned = lora.origin.learned
    kept = {
        k: {n: v for n, v in getattr(learned, k).items() if n in layers} for k in ("ranks", "nu")
    }
    learned = replace(
        learned, **kept, sensitivity={n: v for n, v in sensitivity.items() if n in layers}
    )
    changed = layers.keys() != lora.layers.keys()
    layers = {n: layers[n] for n in [*(n for n in lora.layers if n in layers), *layers]}
    origin = replace(lora.origin, learned=learned)
    singular = lora.singular and not changed
    return Expressed(
        replace(lora, layers=layers, others=others, origin=origin, singular=singular), bases
    )


def place_of(name: str, known: ModelNames) -> Target | None:
    """Returns what a layer's name means in the model; None where it means nothing there."""
    return Target(name) if name in known.rows else known.targets.get(name)


def piece(
    said: str,
    target: Target,
    names: list[str],
    lora: RankedLora,
    places: Mapping[str, Target | None],
    known: ModelNames,
) -> tuple[str, LoraLayer] | None:
    """Returns the layer's name and the update of one piece of a weight; None where the adapter does
    not change the piece.

    said, target: the piece. names: the layers of the adapter that change this weight.
    """
    held = []
    for name in names:
        place, layer = places[name], lora.layers[name]
        held.append((place.start if place.rows else 0, swapped(layer) if place.swapped else layer))
    everything = known.rows.get(target.path) or max(at + len(layer.up) for at, layer in held)
    layer = part(held, target.start, target.rows or everything)
    if layer is None:
        return None
    if len(names) == 1 and places[names[0]] == target:
        name = names[0]
    else:
        same = (
            n for n in names if (p := places[n]).start == target.start and p.rows == target.rows
        )
        name = target.path if target.whole else next(same, said)
    return name, swapped(layer) if target.swapped else layer


def name_of_other(
    name: str, place: Target, pieces: list[tuple[str, Target]], known: ModelNames, form: str
) -> str:
    """Returns the name in a file of a change that is no pair, which can't be split or joined."""
    fitting = [said for said, target in pieces if target == place]
    if not fitting and form in ("kohya", "uniform"):
        fitting = [n for n, t in known.by_path.get(place.path, ()) if t == place]
        fitting = [n for n in fitting if n.startswith(FILE_PREFIXES)]
    if not fitting:
        raise unsaid(name, form)
    return fitting[0]
