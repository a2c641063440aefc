"""What the tensors of a LoRA file are: low-rank pairs, changes of other kinds, and the rest that no
loader reads. Shapes are checked here, from the header alone, before any value is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..adapter.names import split_key
from ..adapter.other_kinds import ATTRIBUTES, BESIDE, MOST_SIDES, size_of, split_other
from .tensor_file import Entry, shown

# side of a kernel of lora_mid: loading makes lora_down 49 times as large, not more; or larger
# kernels, such as those of patches, where that is at most so many times what lora_mid itself has
LARGEST_MID, LARGEST_GROWTH = 7, 4
WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
Table = Mapping[str, Entry | Tensor]


@dataclass
class Contents:
    """Holds the keys of a file.

    pairs: layer -> role -> key of every low-rank pair.
    others: layer -> ending -> key of every change of another kind.
    extras: keys that no loader of LoRAs reads.
    """

    pairs: dict[str, dict[str, str]] = field(default_factory=dict)
    others: dict[str, dict[str, str]] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)


def contents_of(table: Table) -> Contents:
    """Returns what the tensors are, with dtypes and shapes checked; ValueError for the first
    fault.
    """
    found = Contents()
    for key in table:
        if named := split_key(key):
            base, role = named
            if other := found.pairs.setdefault(base, {}).get(role):
                raise ValueError(f"{shown(key)} is the same as {shown(other)}")
            found.pairs[base][role] = key
        elif named := split_other(key):
            found.others.setdefault(named[0], {})[named[1]] = key
        else:
            found.extras.append(key)
    sort_out(found)
    if not found.pairs and not found.others:
        if found.extras:
            first = shown(found.extras[0])
            raise ValueError(f"{first} belongs to no LoRA layer: this is not a LoRA file")
        raise ValueError("the file holds no LoRA layers")
    for base, keys in found.pairs.items():
        check_pair(base, keys, table)
    for base, endings in found.others.items():
        check_other(base, endings, table)
    return found


def sort_out(found: Contents) -> None:
    """Moves pairs that another kind changes to the others, and what means nothing alone to the
    extras.
    """
    for base, endings in list(found.others.items()):
        if not endings.keys() <= BESIDE:
            endings |= {key[len(base) :]: key for key in found.pairs.pop(base, {}).values()}
        if endings.keys() <= ATTRIBUTES | BESIDE and not endings.keys() <= BESIDE:
            lone = {e: k for e, k in endings.items() if e not in BESIDE}
            found.extras += lone.values()
            found.others[base] = {e: k for e, k in endings.items() if e in BESIDE}
        if not found.others[base]:
            del found.others[base]
    for base, keys in list(found.pairs.items()):
        if keys.keys() == {"alpha"}:
            found.extras += found.pairs.pop(base).values()


def check_pair(base: str, keys: Mapping[str, str], table: Table) -> None:
    """Raises ValueError unless the tensors of a low-rank pair are complete and fit together."""
    for role, key in keys.items():
        dtype = table[key].dtype
        if not (dtype.is_floating_point or (role == "alpha" and dtype in WHOLE)):
            raise ValueError(of_no_float(key, dtype))
    if not {"up", "down"} <= set(keys):
        raise ValueError(
            f"{shown(base)} has {' and '.join(sorted(keys))} "
            "but no complete lora_up and lora_down pair"
        )
    check_shapes(base, {role: tuple(table[key].shape) for role, key in keys.items()})


def of_no_float(key: str, dtype: torch.dtype) -> str:
    """Returns the sentence for a tensor of whole numbers where weights are expected."""
    kind = str(dtype).removeprefix("torch.")
    return f"{shown(key)} holds {kind} values, but weights are finite floating-point numbers"


def check_shapes(base: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the shapes of a layer's lora_up, lora_down, lora_mid and alpha fit
    together.
    """
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    sides = len(down) - 2
    fits = 0 <= sides <= MOST_SIDES - 2 and len(up) in (2, len(down)) and math.prod(up[2:]) == 1
    text = f"lora_up {list(up)} and lora_down {list(down)}"
    if mid is not None:
        square = len(mid) == len(down) and mid[0] == mid[1] == down[0]
        fits = fits and sides > 0 and square and grows_little(down, mid)
        fits = fits and math.prod(down[2:]) == 1
        text += f" and lora_mid {list(mid)}"
    if not fits or up[1] != down[0] or 0 in up + down + (mid or ()):
        raise ValueError(f"{shown(base)} has shapes {text}, which don't fit together")
    check_alpha(base, shapes.get("alpha", ()))


def grows_little(down: tuple[int, ...], mid: tuple[int, ...]) -> bool:
    """Returns whether a lora_down with its lora_mid is small enough to be loaded."""
    grown = math.prod(down) * math.prod(mid[2:])
    return max(mid[2:]) <= LARGEST_MID or grown <= LARGEST_GROWTH * math.prod(mid)


def check_alpha(base: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the shape of an alpha is that of one number."""
    if math.prod(shape) != 1:
        raise ValueError(f"{shown(base)}.alpha has shape {list(shape)}: it must be one number")


def check_other(base: str, endings: Mapping[str, str], table: Table) -> None:
    """Raises ValueError unless the tensors of a change of another kind fit together."""
    shapes = {ending: tuple(table[key].shape) for ending, key in endings.items()}
    pair = {split_key(key)[1]: key for key in endings.values() if split_key(key)}
    if pair.keys() & {"up", "down", "mid"}:
        check_pair(base, pair, table)
    check_alpha(base, shapes.get(".alpha", ()))
    for ending, key in endings.items():
        dtype = table[key].dtype
        whole = ending in (".alpha", ".reshape_weight")
        if ending == ".reshape_weight" and dtype not in WHOLE:
            raise ValueError(f"{shown(key)} has {dtype} values, but sizes are whole numbers")
        if not (dtype.is_floating_point or (whole and dtype in WHOLE)):
            raise ValueError(of_no_float(key, dtype))
        if 0 in shapes[ending]:
            raise ValueError(f"{shown(key)} has shape {list(shapes[ending])}, which is empty")
    try:
        size = size_of(shapes)
    except ValueError as error:
        raise ValueError(f"{shown(base)} {error}") from error
    if ".dora_scale" in shapes and size is not None:
        scale = shapes[".dora_scale"]
        if not (scale[0] == size[0] or (scale[0] == 1 and size[1] % scale[1] == 0)):
            raise ValueError(
                f"{shown(base)}.dora_scale has shape {list(scale)}, which doesn't fit a weight of "
                f"{size[0]} x {size[1]}"
            )


def check_growth(base: str, shape: list[int], size: tuple[int, int]) -> None:
    """Raises ValueError unless a `reshape_weight` is the shape that its pair is for.

    size: rows and columns of the pair.
    """
    if min(shape) < 1 or shape[0] != size[0] or math.prod(shape[1:]) != size[1]:
        raise ValueError(
            f"{shown(base)}.reshape_weight is {shape}, but its pair is for {size[0]} x {size[1]}"
        )
