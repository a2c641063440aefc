"""The changes of a layer that are no plain low-rank pair, as LyCORIS, the host's own trainer and
others write them. They stay as they are: the host applies them, and no cut touches them.

What each tensor means is what the host's `comfy.weight_adapter` says. Here is checked that the
tensors of a change fit together, since the host would leave it out, or fail in the middle of a
picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .names import split_key

Shapes = Mapping[str, tuple[int, ...]]  # of a change, by the ending of the tensor's key
Size = tuple[int, int]  # rows and columns of the weight that a change is for

# ending of a key -> the kind of change, as people call it
KINDS = {
    **dict.fromkeys(
        [".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".hada_t1", ".hada_t2"], "LoHa"
    ),
    **dict.fromkeys(
        [
            ".lokr_w1", ".lokr_w2", ".lokr_w1_a", ".lokr_w1_b", ".lokr_w2_a", ".lokr_w2_b",
            ".lokr_t2",
        ],
        "LoKr",
    ),
    **dict.fromkeys([".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"], "GLoRA"),
    ".oft_blocks": "OFT", ".rescale": "OFT",
    ".dora_scale": "DoRA", ".reshape_weight": "reshape",
    ".diff": "diff", ".diff_b": "bias", ".w_norm": "norm", ".b_norm": "norm",
    ".set_weight": "set",
}  # fmt: skip
BESIDE = {".diff_b"}  # changes another weight of the layer, so that a pair stays a pair
# means nothing without another tensor of the same layer
ATTRIBUTES = {".alpha", ".dora_scale", ".rescale", ".b_norm", ".reshape_weight"}
MOST_SIDES = 5  # dimensions of a weight


@dataclass(frozen=True)
class OtherChange:
    """Holds one layer's change: its tensors by the ending of their key, as the file has them."""

    tensors: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.dtype.itemsize for t in self.tensors.values())

    @property
    def kind(self) -> str:
        """Returns what people call this change, such as `LoKr` or `DoRA`."""
        kinds = [KINDS[ending] for ending in self.tensors if ending in KINDS]
        return min(kinds, key=_ORDER.index)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {ending: tuple(t.shape) for ending, t in self.tensors.items()}


# the first one of a change with several kinds gives it its name
_ORDER = ["DoRA", "reshape", "LoHa", "LoKr", "GLoRA", "OFT", "diff", "set", "norm", "bias"]


def split_other(key: str) -> tuple[str, str] | None:
    """Returns (base name, ending) of a tensor's key; None when it is of no kind in KINDS."""
    ending = next((ending for ending in KINDS if key.endswith(ending)), None)
    return None if ending is None else (key[: -len(ending)], ending)


def size_of(shapes: Shapes) -> Size | None:
    """Returns rows and columns of the weight that a change is for, as far as its tensors say so.

    ValueError, in words that follow the layer's name, where the tensors of one change don't fit
    together.
    """
    kinds = sorted({KINDS[ending] for ending in shapes if ending in KINDS}, key=_ORDER.index)
    sizes = [size for kind in kinds if (size := _SIZES[kind](shapes)) is not None]
    return sizes[0] if sizes else pair_size(shapes)


def listed(shapes: Shapes) -> str:
    """Returns the shapes of a change for a sentence."""
    return ", ".join(f"{ending.strip('.')} {list(shape)}" for ending, shape in shapes.items())


def require(condition: bool, shapes: Shapes) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(f"has shapes {listed(shapes)}, which don't fit together")


def flat(shape: tuple[int, ...]) -> Size:
    """Returns a weight's shape as that of a matrix."""
    return shape[0], math.prod(shape[1:])


def product(shapes: Shapes, left: str, right: str, core: str | None = None) -> tuple[int, ...]:
    """Returns the shape of left @ right, or of the Tucker form core x right x left."""
    require({left, right} <= shapes.keys(), shapes)
    a, b = shapes[left], shapes[right]
    require(len(a) == len(b) == 2, shapes)
    if core is None:
        require(a[1] == b[0], shapes)
        return a[0], b[1]
    t = shapes[core]
    require(len(t) == 4 and t[0] == a[0] and t[1] == b[0], shapes)
    return a[1], b[1], *t[2:]


def pair_size(shapes: Shapes) -> Size | None:
    """Returns the size of the low-rank pair in a change, such as that of a DoRA."""
    roles = {split_key(f"x{ending}")[1]: shape for ending, shape in shapes.items()
             if split_key(f"x{ending}")}  # fmt: skip
    if not {"up", "down"} <= roles.keys():
        return None
    sides = roles["mid"][2:] if "mid" in roles else ()
    return roles["up"][0], math.prod(roles["down"][1:]) * math.prod(sides)


def loha(shapes: Shapes) -> Size:
    """Returns the size of a Hadamard product of two products."""
    cores = {".hada_t1", ".hada_t2"} & shapes.keys()
    require(len(cores) in (0, 2), shapes)
    first, second = (
        product(shapes, f".hada_w{n}_a", f".hada_w{n}_b", f".hada_t{n}" if cores else None)
        for n in (1, 2)
    )
    require(first == second, shapes)
    return flat(first)


def lokr(shapes: Shapes) -> Size:
    """Returns the size of a Kronecker product, each factor whole or as a product."""
    factors = []
    for n in (1, 2):
        whole = shapes.get(f".lokr_w{n}")
        core = ".lokr_t2" if n == 2 and ".lokr_t2" in shapes else None
        factors.append(whole or product(shapes, f".lokr_w{n}_a", f".lokr_w{n}_b", core))
    left, right = factors
    require(len(left) == 2 and 2 <= len(right) <= MOST_SIDES, shapes)
    return left[0] * right[0], left[1] * math.prod(right[1:])


def glora(shapes: Shapes) -> Size:
    """Returns the size of b1 b2 + W a1 a2, or of the older b2 b1 + W a2 a1."""
    keys = (".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight")
    require(set(keys) <= shapes.keys() and all(len(shapes[k]) >= 2 for k in keys), shapes)
    a1, a2, b1, b2 = (flat(shapes[key]) for key in keys)
    if a1[1] == a2[0] == b1[1] == b2[0]:
        size, inner = (b1[0], b2[1]), (a1[0], a2[1])
    else:
        require(a1[0] == a2[1] == b1[0] == b2[1], shapes)
        size, inner = (b2[0], b1[1]), (a2[0], a1[1])
    require(inner[0] == inner[1] and size[1] % inner[0] == 0, shapes)
    return size


def oft(shapes: Shapes) -> None:
    """Checks the blocks of an orthogonal change, which say no columns, and of butterflies the
    factor of each row; of one block a row the host reads none.
    """
    blocks = shapes.get(".oft_blocks", ())
    require(len(blocks) in (3, 4) and blocks[-1] == blocks[-2], shapes)
    require(len(blocks) == 3 or (blocks[-1] % 2 == 0 and ".alpha" in shapes), shapes)
    if (rescale := shapes.get(".rescale")) is not None and len(blocks) == 4:
        rows = math.prod(blocks[1:3])
        require(len(rescale) >= 2 and rescale[0] == rows == math.prod(rescale), shapes)


def dora(shapes: Shapes) -> None:
    """Checks a DoRA's scale: a column or a row, so that the host spreads it over the weight."""
    scale = shapes[".dora_scale"]
    require(len(scale) >= 2 and sum(size > 1 for size in scale) <= 1, shapes)


def reshape(shapes: Shapes) -> None:
    """Checks a shape that the weight grows to; its values are checked with the pair's."""
    shape = shapes[".reshape_weight"]
    require(len(shape) == 1 and 2 <= shape[0] <= MOST_SIDES, shapes)


def norm(shapes: Shapes) -> None:
    """Checks a change of a norm's weight, and of its bias, which has its size."""
    weight, bias = shapes.get(".w_norm"), shapes.get(".b_norm")
    require(bool(weight) and bias in (None, weight), shapes)


def bias(shapes: Shapes) -> None:
    require(len(shapes[".diff_b"]) == 1, shapes)


_SIZES: dict[str, Callable[[Shapes], Size | None]] = {
    "LoHa": loha, "LoKr": lokr, "GLoRA": glora, "OFT": oft, "DoRA": dora, "reshape": reshape,
    "norm": norm, "bias": bias,
    "diff": lambda shapes: flat(shapes[".diff"]) if shapes[".diff"] else None,
    "set": lambda shapes: None,
}  # fmt: skip
