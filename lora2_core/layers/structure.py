"""What each layer of a model is for, from the model's own structure: its repeated blocks, the
shapes of the layers inside them, and the words of their names.

A block is an entry of a module list, or one of several sibling modules of a class. Inside blocks,
layers that project for attention carry q, k or v in their names, or belong to the same part of the
block as those that do; a feed-forward makes its input wider and then narrow again. What modulates
(its input is an embedding of time or text) and what lies outside of the blocks is no target.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

ATTENTION, FEED_FORWARD, FUSED = "attention", "feed-forward", "attention + feed-forward"
CONVOLUTION, PROJECTION = "convolution", "projection"
MODULATION, OUTSIDE = "modulation", "outside of blocks"
TRAINED = ATTENTION, FUSED, FEED_FORWARD, CONVOLUTION, PROJECTION
KINDS = (*TRAINED, MODULATION, OUTSIDE)

# words of names: `img_attn_qkv` has img, attn, qkv; `w1q` has w, q; `modC` has mod, C
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ATTENTION_WORDS = {"attn", "attention"}
_HELD = {  # what a projection's name says that its output holds
    "q": "q", "query": "q", "wq": "q", "k": "k", "key": "k", "wk": "k", "v": "v", "value": "v",
    "wv": "v", "kv": "kv", "qkv": "qkv", "wqkv": "qkv", "qk": "qk",
}  # fmt: skip
_OUT_WORDS = {"o", "wo", "out", "output"}
_WIDE_WORDS = {"ff", "ffn", "mlp", "feed", "experts", "moe", "glu", "swiglu"}
_MODULATES = {
    "mod", "modulation", "ada", "adaln", "adain", "emb", "embed", "embedder", "embedding", "norm",
    "timestep", "film",
}  # fmt: skip
_WHOLE = re.compile(r"(Block|Layer|Transformer|Encoder|Decoder)$")  # classes of more than attention


@dataclass(frozen=True)
class Place:
    """Says where a layer is in its model, and what for.

    kind: one of KINDS. block: the dotted name of its block, "" outside of blocks. holds: what its
    output is made of where several weights are one: qkv, kv, or qkv + feed-forward.
    """

    kind: str
    block: str = ""
    holds: str = ""


def is_layer(module: nn.Module) -> bool:
    """Returns whether a module is a Linear, by its in_features, or a convolution."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return True
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def sides(module: nn.Module) -> tuple[int, int]:
    """Returns the inputs and outputs of a layer, without a kernel."""
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def places(model: nn.Module) -> dict[str, Place]:
    """Returns the place of every Linear and convolution of a model, by name in its order."""
    modules = dict(model.named_modules())
    repeated = set(repeated_blocks(modules))
    inside: dict[str, list[str]] = defaultdict(list)
    found: dict[str, Place] = {}
    for name, module in modules.items():
        if is_layer(module):
            block = next((a for a in ancestors(name) if a in repeated), "")
            found[name] = Place(OUTSIDE, block)
            inside[block].append(name)
    for block, names in inside.items():
        if block:
            found |= places_in(block, names, modules)
    return found


def ancestors(name: str) -> Iterator[str]:
    """Returns the dotted names of the modules that contain this one, the outermost first."""
    path = name.split(".")
    return (".".join(path[:end]) for end in range(1, len(path)))


def repeated_blocks(modules: dict[str, nn.Module]) -> Iterator[str]:
    """Returns the names of all blocks: entries of module lists and dicts, siblings of one class
    that hold two layers each, and modules of a class that such entries have.
    """
    holds = Counter(a for n, m in modules.items() if is_layer(m) for a in ancestors(n))
    classes = set()
    for name, parent in modules.items():
        children = [(f"{name}.{n}" if name else n, m) for n, m in parent.named_children()]
        if isinstance(parent, (nn.ModuleList, nn.ModuleDict)):
            entries = [(n, m) for n, m in children if not is_layer(m)]
            classes |= {type(m) for _, m in entries} - {nn.Sequential, nn.ModuleList}
            yield from (n for n, _ in entries)
        else:
            like = Counter(type(m) for _, m in children)
            yield from (
                n
                for n, m in children
                if like[type(m)] > 1 and holds[n] > 1 and not is_container(m) and not embeds(m)
            )
    yield from (n for n, m in modules.items() if n and type(m) in classes and holds[n] > 1)


def is_container(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential))


def words(name: str) -> list[str]:
    """Returns the words of one name, in small letters."""
    return [word.lower() for word in _WORD.findall(name)]


def embeds(module: nn.Module) -> bool:
    """Returns whether the class of a module says that it makes an embedding or a modulation."""
    return not is_container(module) and bool(_MODULATES & set(words(type(module).__name__)))


def places_in(block: str, names: list[str], modules: dict[str, nn.Module]) -> dict[str, Place]:
    """Returns the places of the layers of one block. A block without attention, feed-forward and
    convolutions is no block of the model's depth: what is in it counts as outside.
    """
    held = {n: kept for n in names if (kept := held_by(n, block))}
    rest = [n for n in names if not modulates(n, block, modules)]
    units = {unit_of(n, block, modules) for n in rest if n in held}
    units |= {u for n in rest for u in ancestors(n) if is_attention(u, block, modules)}
    units |= unnamed_attention(rest, modules) if not units else set()
    found = {}
    for name in rest:
        unit = next((u for u in (*ancestors(name), name) if u in units), None)
        found[name] = Place(kind_of(name, unit, block, held, modules), block, held.get(name, ""))
    mark_feed_forward(found, block, modules)
    kinds = {place.kind for place in found.values()} - {PROJECTION}
    if kinds and (ATTENTION in kinds or not embeds(modules[block])):
        return {n: found.get(n, Place(MODULATION, block)) for n in names}
    return {n: Place(OUTSIDE, "") for n in names}


def kind_of(
    name: str, unit: str | None, block: str, held: dict[str, str], modules: dict[str, nn.Module]
) -> str:
    """Returns the kind of a layer as its name and its unit say, before shapes are looked at."""
    wide = any(_WIDE_WORDS & set(words(part)) for part in below(name, unit or block))
    if isinstance(modules[name], nn.modules.conv._ConvNd) and unit is None:
        return FEED_FORWARD if wide and not isinstance(modules[name], nn.Conv2d) else CONVOLUTION
    if unit is not None and not wide:
        spoken = set(words(name.rpartition(".")[2]))
        if unit != block or name in held or spoken & (_ATTENTION_WORDS | _OUT_WORDS):
            return ATTENTION
    return FEED_FORWARD if wide else PROJECTION


def below(name: str, ancestor: str) -> list[str]:
    """Returns the parts of a name below one of its ancestors."""
    return name[len(ancestor) :].strip(".").split(".")


def held_by(name: str, block: str) -> str:
    """Returns what a layer's name says that its output holds of q, k and v, "" for others."""
    for part in reversed(below(name, block)[-2:]):
        spoken = [_HELD[word] for word in words(part) if word in _HELD]
        if spoken:
            return spoken[0]
    return ""


def modulates(name: str, block: str, modules: dict[str, nn.Module]) -> bool:
    """Returns whether a layer's input is an embedding that modulates: by a name or class below its
    block, or because an activation comes first.
    """
    parts, at = below(name, block), block
    for part in parts[:-1]:
        at = f"{at}.{part}"
        if _MODULATES & set(words(part)) or embeds(modules[at]):
            return True
    if _MODULATES & set(words(parts[-1])) and not _ATTENTION_WORDS & set(words(parts[-1])):
        return True
    parent = modules[name.rpartition(".")[0]]
    if type(parent) is not nn.Sequential:
        return False
    first = next(iter(parent.children()))
    return not is_layer(first) and not list(first.parameters()) and not list(first.children())


def is_attention(name: str, block: str, modules: dict[str, nn.Module]) -> bool:
    """Returns whether a module below a block is an attention, by its name or class."""
    if not name.startswith(f"{block}."):
        return False
    kind = type(modules[name]).__name__
    if _ATTENTION_WORDS & set(words(name.rpartition(".")[2])):
        return True
    return bool(_ATTENTION_WORDS & set(words(kind))) and not _WHOLE.search(kind)


def unit_of(name: str, block: str, modules: dict[str, nn.Module]) -> str:
    """Returns the attention that a layer with q, k or v in its name belongs to: the outermost one
    below the block, else the module around it.
    """
    outer = next((a for a in ancestors(name) if is_attention(a, block, modules)), None)
    if outer is not None:
        return outer
    unit = name.rpartition(".")[0]
    spoken = set(words(name.rpartition(".")[2]))
    return unit if spoken & _HELD.keys() else unit.rpartition(".")[0]


def unnamed_attention(names: list[str], modules: dict[str, nn.Module]) -> set[str]:
    """Returns modules whose own layers have the shapes of an attention: three times as wide as
    their input and square, or four squares.
    """
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name in names:
        groups[name.rpartition(".")[0]].append(sides(modules[name]))
    found = set()
    for parent, shapes in groups.items():
        squares = [a for a, b in shapes if a == b]
        fused = any(b == 3 * a and a in squares for a, b in shapes)
        if fused or (len(squares) == len(shapes) == 4 and len(set(squares)) == 1):
            found.add(parent)
    return found


def mark_feed_forward(found: dict[str, Place], block: str, modules: dict[str, nn.Module]) -> None:
    """Sets the kind of the projections of a block that widen and narrow again: a feed-forward; or,
    in a block without attention, attention and feed-forward in one weight.
    """
    alone = not any(place.kind == ATTENTION for place in found.values())
    pairs: dict[str, list[str]] = defaultdict(list)
    for name, place in found.items():
        if place.kind == PROJECTION:
            pairs[name.rpartition(".")[0]].append(name)
    for names in pairs.values():
        for narrow in names:
            width, out = sides(modules[narrow])
            for wide in names:
                taken, made = sides(modules[wide])
                if taken != out or made <= taken or width <= out:
                    continue
                # q, k, v as wide as the output, then the feed-forward, once or twice (gated)
                if alone and made in (2 * out + width, out + 2 * width):
                    found[wide] = Place(FUSED, block, "qkv + feed-forward")
                    found[narrow] = Place(FUSED, block, "out + feed-forward")
                elif made in (width, 2 * width):
                    found[wide] = found[narrow] = Place(FEED_FORWARD, block)
