"""Layers that a file names twice, in two spellings: loaders take one of them, or add both."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .lora import RankedLora
from .model_names import ModelNames, Target

# what names begin with before the module path, with dots for underscores; several may follow
_BEGINNING = re.compile(
    r"(lora\.(unet|transformer)\.|lycoris\.|unet\.|transformer\.|base\.model\.model\.|"
    r"(model\.)?diffusion\.model\.)+"
)
_ENCODER = re.compile(r"(?:lora_te|text_encoder_?)(\d?)[._]")


def plain(name: str) -> str:
    """Returns a name with dots alone, without what programs write around a module path. Those of
    text encoders begin with their number.
    """
    encoder = _ENCODER.match(name)
    path = re.sub(r"[._]+", ".", name[encoder.end() :] if encoder else name)
    path = _BEGINNING.sub("", path.replace(".processor.", "."), count=1)
    path = re.sub(r"\.to\.out\.0$", ".to.out", path)
    return f"text encoder {encoder[1] or 1}: {path}" if encoder else path


def named_twice(lora: RankedLora) -> list[tuple[str, str]]:
    """Returns pairs of an adapter's names for one layer, or for rows of a weight in common."""
    names = list(dict.fromkeys([*lora.layers, *lora.others]))
    known, found, first = lora.origin.base.names, [], dict[str, str]()
    for name in names:
        if (other := first.setdefault(plain(name), name)) != name:
            found.append((other, name))
    if known is not None:
        same = {frozenset(pair) for pair in found}
        found += [p for p in overlapping(names, known) if frozenset(p) not in same]
    return found


def overlapping(names: Iterable[str], known: ModelNames) -> list[tuple[str, str]]:
    """Returns pairs of names that mean rows of one weight in common."""
    places: dict[str, list[tuple[str, Target]]] = {}
    found = []
    for name in names:
        target = known.targets.get(name)
        if target is None:
            continue
        others = places.setdefault(target.path, [])
        found += [(other, name) for other, place in others if share(place, target)]
        others.append((name, target))
    return found


def share(one: Target, other: Target) -> bool:
    """Returns whether two parts of a weight have rows in common."""
    if one.rows is None or other.rows is None:
        return True
    return one.start < other.start + other.rows and other.start < one.start + one.rows
