"""More adapter files that must be refused, or named: changes that are no low-rank pairs, alphas,
and the alphas of PEFT in the metadata. Each class is one way in which such a file is wrong.
"""

from __future__ import annotations

import json
import math
from random import Random

from tests.reliability.malformed import (
    INF,
    NAN,
    OTHERS,
    Draft,
    Made,
    changed,
    of_class,
    with_other,
)

BASE = "lora_unet_other"
# kind -> the axes of its tensors that another one must have too
TIED: dict[str, dict[str, list[int]]] = {
    "LoHa": {".hada_w1_a": [0, 1], ".hada_w1_b": [0, 1], ".hada_w2_a": [0, 1],
             ".hada_w2_b": [0, 1]},
    "LoHa of a kernel": {".hada_t1": [0, 1, 2], ".hada_w1_a": [0, 1], ".hada_w2_b": [0, 1],
                         ".hada_t2": [0, 1, 3]},
    "LoKr": {".lokr_w2_a": [1], ".lokr_w2_b": [0]},
    "LoKr of a kernel": {".lokr_w1_a": [1], ".lokr_w1_b": [0], ".lokr_t2": [0, 1],
                         ".lokr_w2_a": [0], ".lokr_w2_b": [0]},
    "GLoRA": {".a1.weight": [0, 1], ".a2.weight": [0], ".b1.weight": [1], ".b2.weight": [0]},
    "OFT": {".oft_blocks": [1, 2]}, "BOFT": {".oft_blocks": [2, 3]},
    "DoRA": {".lora_up.weight": [1], ".lora_down.weight": [0], ".dora_scale": [0]},
    "norm": {".w_norm": [0], ".b_norm": [0]},
}  # fmt: skip
KINDS = list(TIED)
# entries of `lora_adapter_metadata` that say nothing; a file with them is read, and says so
BAD_PEFT: list[object] = [
    {"lora_alpha": NAN}, {"lora_alpha": INF}, {"lora_alpha": "4"}, {"lora_alpha": [4]},
    {"lora_alpha": True}, {"lora_alpha": 1e300}, {"r": NAN, "lora_alpha": 4},
    {"r": "2", "lora_alpha": 4}, {"r": 0, "lora_alpha": 4}, {"r": -3, "lora_alpha": 4},
    {"lora_alpha": 4, "alpha_pattern": [1]}, {"lora_alpha": 4, "alpha_pattern": {"x": NAN}},
    {"lora_alpha": 4, "alpha_pattern": {"x": None}}, {"lora_alpha": 4, "rank_pattern": "x"},
    {"lora_alpha": 4, "rank_pattern": {"(a+)+$": "2"}}, {"lora_alpha": 4, "use_rslora": "yes"},
]  # fmt: skip
NOTED = {"peft_metadata"}  # classes of which a file is read with a note


@of_class
def another_kind_that_does_not_fit(random: Random) -> Made:
    """One side of one tensor is longer or shorter than that of the tensor beside it."""

    def change(draft: Draft) -> list[str]:
        kind = random.choice(KINDS)
        with_other(draft, kind)
        ending = random.choice(list(TIED[kind]))
        shape = list(OTHERS[kind][ending])
        axis = random.choice(TIED[kind][ending])
        shape[axis] += random.choice([n for n in (-1, 1, 7) if shape[axis] + n > 1])
        draft.add(BASE + ending, shape)
        return [BASE]

    return changed(random, change)


@of_class
def another_kind_of_other_dimensions(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        kind = random.choice([k for k in KINDS if k.startswith(("Lo", "OFT", "BOFT"))])
        with_other(draft, kind)
        ending = random.choice([e for e in OTHERS[kind] if OTHERS[kind][e]])
        shape = OTHERS[kind][ending]
        shapes = [shape[0:1], [*shape, 1, 1, 1, 1], [1, 1, 1, 1, *shape]]
        draft.add(BASE + ending, random.choice(shapes))
        return [BASE]

    return changed(random, change)


@of_class
def another_kind_without_a_side(random: Random) -> Made:
    """An empty tensor, of any kind."""

    def change(draft: Draft) -> list[str]:
        kind = random.choice(KINDS)
        key = random.choice([k for k in with_other(draft, kind) if draft.tensors[k]["shape"]])
        shape = list(draft.tensors[key]["shape"])
        shape[random.randrange(len(shape))] = 0
        draft.add(key, shape)
        return [BASE]

    return changed(random, change)


@of_class
def alpha_of_another_kind(random: Random) -> Made:
    """An alpha that is no finite number, beside any kind of change."""

    def change(draft: Draft) -> list[str]:
        with_other(draft, random.choice(KINDS[:-1]))
        shape, values = random.choice(
            [([], [NAN]), ([], [INF]), ([1], [-INF]), ([2], [1.0, 1.0]), ([0], []),
             ([1, 2], [1.0, 2.0])]
        )  # fmt: skip
        draft.add(f"{BASE}.alpha", shape, random.choice(["F32", "F16"]), values)
        return [BASE]

    return changed(random, change)


@of_class
def alpha_that_makes_it_infinite(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        base = random.choice(draft.bases)
        draft.add(f"{base}.alpha", [], "F32", [random.choice([3e38, -3e38, 1e38])])
        for end in (draft.up, draft.down):
            shape = draft.tensors[base + end]["shape"]
            draft.add(base + end, shape, "F32", [1e3] * math.prod(shape))
        return [base, "finite"]

    return changed(random, change)


@of_class
def scale_of_another_kind(random: Random) -> Made:
    """A DoRA's scale that no weight of the change's size can have."""

    def change(draft: Draft) -> list[str]:
        with_other(draft, random.choice(["LoHa", "LoKr", "GLoRA"]))
        shape = random.choice([[7, 1], [1, 9], [6], [], [6, 8], [5, 1], [0, 1], [2, 3]])
        draft.add(f"{BASE}.dora_scale", shape)
        return [BASE]

    return changed(random, change)


@of_class
def rescale_of_other_rows(random: Random) -> Made:
    """The rows of a butterfly are those of its blocks."""

    def change(draft: Draft) -> list[str]:
        with_other(draft, "BOFT")
        draft.add(f"{BASE}.rescale", random.choice([[9, 1], [8, 3], [2, 1], [0], [1, 8], [8]]))
        return [BASE]

    return changed(random, change)


@of_class
def norms_of_two_sizes(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        with_other(draft, "norm")
        draft.add(f"{BASE}.b_norm", random.choice([[5], [6, 1], [1], [7]]))
        return [BASE]

    return changed(random, change)


@of_class
def sizes_that_are_no_sizes(random: Random) -> Made:
    """A `reshape_weight` of other kinds of numbers, dimensions or length than its pair."""

    def change(draft: Draft) -> list[str]:
        base = random.choice(draft.bases)
        kind = random.choice(["F32", "F16", "F64"])
        values = [5.0, 9.0]
        if random.random() < 0.5:
            kind, values = "I32", random.choice([[-5, -9], [1], [2**31 - 1] * 3, [0, 0, 0]])
        draft.add(f"{base}.reshape_weight", [len(values)], kind, values)
        return [base]

    return changed(random, change)


@of_class
def peft_metadata(random: Random) -> Made:
    """Alphas of PEFT in the metadata that are none. ComfyUI never reads them; here the file is read
    without them, and says so.
    """
    draft = Draft(random)
    draft.up, draft.down = ".lora_B.weight", ".lora_A.weight"
    draft.tensors = {}
    for layer in range(random.randint(1, 3)):
        draft.add(f"unet.a.{layer}.lora_A.weight", [2, 6])
        draft.add(f"unet.a.{layer}.lora_B.weight", [5, 2])
    entry = random.choice(BAD_PEFT)
    text = json.dumps({f"unet.{key}": value for key, value in entry.items()})
    odd = ["[1]", "{", "[" * 9999, '{"unet.lora_alpha":}', "3", '"x"', ""]
    draft.metadata["lora_adapter_metadata"] = random.choice(odd) if random.random() < 0.2 else text
    return draft.packed(), []
