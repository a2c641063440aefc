"""The choice of layers that get an adapter: a kind of layers, found by the model's structure, or a
regular expression; and blocks to take or to leave out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from ..adapter.names import HOST_PREFIX
from ..checks import check_choice, check_text
from ..ranks.layer_ranks import Line
from ..ranks.modes import Fixed
from . import structure
from .layer import Component, is_adaptable
from .structure import Place

# Names of attention in UNets, Qwen-Image, Wan, Flux, SD3 and Lumina; the second line is Flux's
# single blocks, whose layers hold attention and MLP in one. Workflows hold this text, so it stays
# as it is and means the attention layers of any model.
ATTENTION = (
    r"(attn|attention)\d?\.(to_(q|k|v|out\.0|add_out)|add_(q|k|v)_proj|[qkvo]|qkv|proj|out)$"
    r"|single_blocks\.\d+\.linear[12]$"
)
# names of layers in UNets and Qwen-Image, Flux, SD3, Lumina, Wan
FEED_FORWARD = (
    r"(ff|ff_context|img_mlp|txt_mlp)\.net\.(0\.proj|2)$|(img|txt)_mlp\.[02]$|mlp\.fc[12]$"
    r"|feed_forward\.w[123]$|ffn\.\d+$"
)
EVERYTHING = r"^diffusion_model\."
REGEX, ATTENTION_LAYERS, ALL_LINEAR = "regex", "attention", "all linear"
AUTO = "auto"  # the kind of layers that suits the mode
# a kind of layers -> what the structure calls them, and names that always belong to them
IN_BLOCKS = {
    ATTENTION_LAYERS: ((structure.ATTENTION, structure.FUSED), ATTENTION),
    "attention + feed-forward": (
        (structure.ATTENTION, structure.FUSED, structure.FEED_FORWARD),
        f"{ATTENTION}|{FEED_FORWARD}",
    ),
    "all in blocks": (structure.TRAINED, f"{ATTENTION}|{FEED_FORWARD}"),
}
KINDS = (*IN_BLOCKS, ALL_LINEAR, "all linear + conv")
LAYERS = (AUTO, REGEX, *KINDS)
# what a person writes for a block, and its name in the model
SIDES = {
    "down": "input_blocks", "mid": "middle_block", "up": "output_blocks", "double": "double_blocks",
    "single": "single_blocks",
}  # fmt: skip
# a block as a person writes it: `up 0-3`
_BLOCK = re.compile(r"([A-Za-z_][\w.]*)(?:[ .](\d+)(?:-(\d+))?)?")
# a block's name, and its number, inside the dotted name of a layer
_NUMBERED = re.compile(r"(?:^|\.)([a-z_]*(?:block|layer)[a-z_]*)(?:\.\d+)?\.")


def find_layers(module: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """Returns every Linear and Conv2d in whose dotted name the regular expression matches, by name.
    Raises ValueError when it is broken or matches none.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"targets is not a regular expression ({error}): {pattern!r}") from error
    layers = {n: m for n, m in module.named_modules() if compiled.search(n) and is_adaptable(m)}
    if not layers:
        raise ValueError(
            f"targets {pattern!r} match no Linear or Conv2d layer: "
            "check the names of the model's layers."
        )
    return layers


def find_in_blocks(module: nn.Module, kind: str) -> dict[str, nn.Module]:
    """Returns the layers of one of IN_BLOCKS, by name. Raises ValueError where there is none."""
    wanted, names = IN_BLOCKS[kind]
    known, found = re.compile(names), places(module)
    layers = {
        n: m
        for n, m in module.named_modules()
        if n in found and is_adaptable(m) and (found[n].kind in wanted or known.search(n))
    }
    if not layers:
        raise ValueError(
            f"This model has no layers of the kind {kind!r} in blocks that repeat: choose "
            f"{ALL_LINEAR!r}, or regex with a pattern of your own."
        )
    return layers


def places(module: nn.Module) -> dict[str, Place]:
    """Returns the place of every layer of a model, of a host's model only those that denoise."""
    found = structure.places(module)
    return {n: p for n, p in found.items() if n.startswith(HOST_PREFIX)} or found


@dataclass(frozen=True)
class TargetSettings:
    """A choice of layers.

    layers: one of KINDS; `auto`, which `resolved` replaces; or `regex` for the layers that
    `targets` matches, where the default means the attention layers of any model. only_blocks,
    without_blocks: blocks to take or to leave out, with commas between them. A block is `down`,
    `mid`, `up`, `double`, `single`, or its name in the model; a number or a range may follow, as in
    `down 4, up 0-3` or `layers.5`.
    """

    layers: str = REGEX
    targets: str = ATTENTION
    only_blocks: str = ""
    without_blocks: str = ""

    def __post_init__(self) -> None:
        check_choice("layers", self.layers, LAYERS)
        for name in ("targets", "only_blocks", "without_blocks"):
            check_text(name, getattr(self, name))
        for name in ("only_blocks", "without_blocks"):
            blocks(name, getattr(self, name))

    def resolved(self, mode: Fixed) -> TargetSettings:
        """Returns the choice with the mode's own kind of layers in place of `auto`."""
        return replace(self, layers=mode.defaults.layers) if self.layers == AUTO else self

    def facts(self) -> dict:
        """Returns the fields of the choice that say something, for checkpoints and metadata."""
        fields = {k: v for k, v in asdict(self).items() if v not in ("", REGEX)}
        return {"targets": self.targets} | fields

    def chosen(self, module: nn.Module) -> dict[str, nn.Module]:
        """Returns the chosen layers of a model by name, in the model's order. Raises ValueError
        when none is left, or the model has no such block.
        """
        kind = self.layers
        if kind == REGEX and self.targets == ATTENTION:
            kind = ATTENTION_LAYERS
        if kind in IN_BLOCKS:
            layers = find_in_blocks(module, kind)
        else:
            layers = find_layers(module, self.targets if kind == REGEX else EVERYTHING)
        if kind == ALL_LINEAR:
            layers = {n: m for n, m in layers.items() if not isinstance(m, nn.Conv2d)}
        for name in ("only_blocks", "without_blocks"):
            wanted = blocks(name, getattr(self, name))
            for block in wanted:
                check_block(name, block, module)
            if wanted:
                inside = name == "only_blocks"
                layers = {
                    n: m for n, m in layers.items() if any(b.holds(n) for b in wanted) == inside
                }
        if not layers:
            raise ValueError(
                f"only_blocks {self.only_blocks!r} and without_blocks {self.without_blocks!r} "
                "leave no layer to train: take more blocks."
            )
        return layers


def with_layers(options: Mapping[str, object], layers: str | None) -> dict[str, object]:
    """Returns the options of a chain with the kind of layers that a node says itself. It counts
    where the chain says none, or `auto`. None: the node says none, as in workflows of before.
    """
    said = options.get("layers", REGEX if "targets" in options else AUTO)
    return {**options} if layers is None or said != AUTO else {**options, "layers": layers}


@dataclass(frozen=True)
class Block:
    """A part of a model: a path of module names, and the range of numbered modules below it; all of
    them where `first` is None. `text` is what the person wrote.
    """

    text: str
    path: str
    first: int | None = None
    last: int = 0

    def holds(self, name: str) -> bool:
        """Returns whether the block contains the module of this dotted name."""
        _, match, after = f".{name}.".partition(f".{self.path}.")
        if not match or self.first is None:
            return bool(match)
        number = after.partition(".")[0]
        return number.isdecimal() and self.first <= int(number) <= self.last


def blocks(name: str, text: str) -> list[Block]:
    """Returns the blocks that the text of an input names. Raises ValueError for anything else.

    name: the name of the input, for the error.
    """
    parsed = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = _BLOCK.fullmatch(part)
        low, high = match.groups()[1:] if match else (None, None)
        first = None if low is None else int(low)
        last = int(high or low or 0)
        if match is None or (first is not None and first > last):
            raise ValueError(
                f"{name} has {part!r}, which is no block: write down, mid, up, double, single or a "
                "block's name in the model, with a number or a range, such as down 4 or up 0-3."
            )
        parsed.append(Block(part, SIDES.get(match[1], match[1]), first, last))
    return parsed


def block_of(name: str) -> str:
    """Returns the block of a layer as a person writes it: `down 4`, `mid`, `single 12`, `layers
    3`.
    """
    path = name.removeprefix("diffusion_model.")
    match = _NUMBERED.search(path)
    if match is None:
        return path.partition(".")[0]
    side = next((side for side, inner in SIDES.items() if inner == match[1]), match[1])
    number = match[0].rstrip(".").rpartition(".")[2]
    return f"{side} {number}" if number.isdecimal() and side != "mid" else side


def components(
    layers: Mapping[str, nn.Module],
    lines: Mapping[str, Line],
    max_rank: int,
    device: torch.device | str,
    tile: int = 1,
) -> dict[str, Component]:
    """Returns a Component for each layer, by name. Its highest rank is the one of its line, else
    max_rank, but at most the smaller side of its weight. Raises ValueError for a line whose rank is
    above that side.
    """
    made = {}
    for name, module in layers.items():
        line = lines.get(name)
        most = max_rank if line is None else line.most
        made[name] = part = Component(module, most, device, tile)
        if line is not None and most > part.max_rank:
            raise ValueError(
                f"layer_ranks gives rank {most} to {name}, which is {part.fan_out} x "
                f"{part.fan_in} and has at most {part.max_rank}: lower it, or give this layer a "
                "line of its own before."
            )
    return made


def check_block(name: str, block: Block, module: nn.Module) -> None:
    """Raises ValueError unless the block is in the model."""
    names = [n for n, m in module.named_modules() if is_adaptable(m)]
    if any(block.holds(n) for n in names):
        return
    known = dict.fromkeys(match[1] for n in names if (match := _NUMBERED.search(n)))
    sides = {path: side for side, path in SIDES.items()}
    raise ValueError(
        f"{name} has {block.text!r}, but this model has no layer there: its blocks are "
        f"{', '.join(sides.get(k, k) for k in known) or 'without names'}."
    )
