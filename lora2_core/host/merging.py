"""Brings adapters from files, nodes and stacks to the same names of layers, so that they can be
merged. The host's own names say which layers of two files are the same weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..adapter.dense import as_pairs, nothing
from ..adapter.expressing import expressed, place_of
from ..adapter.lora import RankedLora
from ..adapter.merging import Merged, MergeSettings, Source
from ..adapter.names import kohya_name
from ..adapter.origin import BaseModel, Origin, RunFacts
from ..paths import quoted
from .apply import adopt, updates
from .export import from_lora_model
from .families import family_names
from .lora_files import read_lora
from .unet_names import unet_names


def adapter_from(title: str, value: object) -> tuple[str, RankedLora]:
    """Returns what a user knows an adapter by, and the adapter: of nodes of LoRA2 or of the host,
    or of a file by its name in the list of LoRAs.
    """
    if isinstance(value, RankedLora):
        return value.origin.file.name or title, value
    if isinstance(value, str):
        return value, read_lora(value)
    if isinstance(value, Mapping):
        return title, from_lora_model(value)
    raise ValueError(
        f"{title} is {quoted(value)}: connect a LoRA2 node, a LORA_MODEL, or the name of a file."
    )


@dataclass(frozen=True)
class Alike:
    """Holds adapters with the same names for the same layers, the energy that each lost when its
    changes became pairs, and what is known of their model.
    """

    loras: list[RankedLora]
    beyond: list[float]
    base: BaseModel


def alike(titled: Sequence[tuple[str, RankedLora]], model=None, clip=None) -> Alike:
    """Returns adapters with each layer named as the weight that it changes, all changes that can be
    pairs as pairs, and slices of a weight joined.

    model, clip: those that the adapters belong to, where they are connected; then the names are
    theirs, and kinds that depend on the weights become pairs as well. ValueError in one sentence
    that names the adapter.
    """
    loras, dense = [lora for _, lora in titled], nothing
    base = common_base(loras)
    done, beyond = [], []
    for title, lora in titled:
        if model is not None:
            lora = adopt(lora, model, clip)
            dense, base = updates(lora, model), lora.origin.base
        pairs = as_pairs(lora, dense)
        known = replace(
            pairs.lora.origin.base, names=base.names, diffusers=base.diffusers, part=base.part
        )
        named = replace(pairs.lora, origin=replace(pairs.lora.origin, base=known))
        check_parts(title, named)
        done.append(by_weight(named) if base.names else named)
        beyond.append(pairs.beyond)
    return Alike(in_one_spelling(done), beyond, described(base, loras))


def by_weight(lora: RankedLora) -> RankedLora:
    """Returns an adapter whose layers are the weights of its model, by their paths."""
    found = expressed(lora, "whole", {})
    return renamed(found.lora, found.bases)


def renamed(lora: RankedLora, names: Mapping[str, str]) -> RankedLora:
    """Returns an adapter with other names of its layers: name -> new name."""
    layers = {names.get(n, n): layer for n, layer in lora.layers.items()}
    others = {names.get(n, n): change for n, change in lora.others.items()}
    return replace(lora, layers=layers, others=others)


def common_base(loras: Sequence[RankedLora]) -> BaseModel:
    """Returns the model that adapters belong to, as far as they show it; its names may be None."""
    bases = [lora.origin.base for lora in loras]
    if seen := next((base for base in bases if base.names and base.diffusers), None):
        return seen
    if unet := unet_names(loras):
        return BaseModel(names=unet.names, diffusers=unet.diffusers)
    if seen := next((base for base in bases if base.names), None):
        return seen
    together = RankedLora(
        {name: layer for lora in loras for name, layer in lora.layers.items()},
        others={name: change for lora in loras for name, change in lora.others.items()},
    )
    return BaseModel(names=family_names(together))


def described(base: BaseModel, loras: Sequence[RankedLora]) -> BaseModel:
    """Returns a model with what the files say of it, where nothing else is known."""
    for lora in loras:
        metadata = lora.origin.file.metadata
        version = base.version or lora.origin.base.version
        architecture = base.architecture or lora.origin.base.architecture
        version = version or metadata.get("ss_base_model_version")
        spoken = metadata.get("modelspec.architecture", "").removesuffix("/lora")
        base = replace(base, version=version, architecture=architecture or spoken or None)
    return base


def check_parts(title: str, lora: RankedLora) -> None:
    """Raises ValueError where a change that is no pair is for a part of a weight alone."""
    known = lora.origin.base.names
    for name, change in lora.others.items() if known else ():
        place = place_of(name, known)
        if place is not None and not place.whole:
            raise ValueError(
                f"{title}: layer {name} has a change of kind {change.kind} for a part of a weight, "
                "which can't be merged: connect model, so that it becomes a pair, or leave the "
                "file out."
            )


def in_one_spelling(loras: list[RankedLora]) -> list[RankedLora]:
    """Returns adapters in which a layer has the name that the first of them gives it, where their
    names differ in dots and beginnings only.
    """
    first: dict[str, str] = {}
    done = []
    for lora in loras:
        names = {name: first.setdefault(plain(name), name) for name in all_names(lora)}
        if len(set(names.values())) < len(names):  # two layers would share a name: all keep theirs
            names = {}
        done.append(renamed(lora, names))
    return done


def plain(name: str) -> str:
    """Returns a layer's name without what programs write differently."""
    return kohya_name(name).replace("lora_te_", "lora_te1_")


def all_names(lora: RankedLora) -> list[str]:
    """Returns the names of all layers that an adapter changes."""
    return list(dict.fromkeys([*lora.layers, *lora.others]))


def as_adapter(
    merged: Merged, base: BaseModel, sources: Sequence[Source], settings: MergeSettings
) -> RankedLora:
    """Returns a merged adapter that knows what it was merged of."""
    facts = {
        "of": [[source.title.replace("\\", "/").rpartition("/")[2], source.weight]
               for source in sources],
        "method": settings.method, "budget_mb": settings.budget_mb,
        "tolerance": settings.tolerance, "error": merged.error,
    }  # fmt: skip
    run = RunFacts(settings={"merged": facts})
    return replace(merged.lora, origin=Origin(run=run, base=base))
