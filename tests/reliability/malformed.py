"""Adapter files that must be refused: each class is one way in which a file is wrong, made at
random from a good one.

    data, words = malformed(random.Random(7), "hole")

`words` must stand in the sentence that refuses it, besides the file's name.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from random import Random

import numpy as np

from lora2_core.files.saving import encode
from lora2_core.files.tensor_file import LONGEST_HEADER
from tests.toys import random_lora

NAN, INF = float("nan"), float("inf")
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
SUFFIXES = [
    (".lora_up.weight", ".lora_down.weight"), ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"), (".lora.up.weight", ".lora.down.weight"),
]  # fmt: skip
Made = tuple[bytes, list[str]]


class Draft:
    """A file in the making: its tensors' entries and bytes in order, and its metadata."""

    def __init__(self, random: Random):
        self.random, self.metadata = random, {}
        self.tensors: dict[str, dict] = {}
        self.up, self.down = random.choice(SUFFIXES)
        self.bases = [f"lora_unet_block_{i}_to_q" for i in range(random.randint(1, 5))]
        for base in self.bases:
            rank, rows, columns = random.randint(1, 4), random.randint(5, 9), random.randint(10, 16)
            kind = random.choice(list(SIZES))
            self.add(base + self.up, [rows, rank], kind)
            self.add(base + self.down, [rank, columns], kind)
            if random.random() < 0.5:
                self.add(f"{base}.alpha", [], "F32", [random.choice([1.0, 2.0, 0.5])])

    def add(self, key: str, shape: list, kind: str = "F32", values: list | None = None) -> None:
        """A tensor; random values unless given."""
        count = math.prod(shape)
        drawn = values if values is not None else [self.random.gauss(0, 1) for _ in range(count)]
        self.tensors[key] = {"dtype": kind, "shape": shape, "bytes": as_bytes(drawn, kind)}

    def pick(self, role: str = "") -> str:
        """One key, of lora_up, of lora_down, or any."""
        endings = {"up": self.up, "down": self.down, "": ("", self.up, self.down)[0]}[role]
        return self.random.choice([key for key in self.tensors if key.endswith(endings)])

    def table(self) -> tuple[dict, bytes]:
        """The header's object, and the payload."""
        header: dict = {"__metadata__": self.metadata} if self.metadata else {}
        payload = b""
        for key, tensor in self.tensors.items():
            end = len(payload) + len(tensor["bytes"])
            header[key] = {"dtype": tensor["dtype"], "shape": tensor["shape"],
                           "data_offsets": [len(payload), end]}  # fmt: skip
            payload += tensor["bytes"]
        return header, payload

    def packed(self) -> bytes:
        return pack(*self.table())


def as_bytes(values: list, kind: str) -> bytes:
    if kind == "BF16":
        bits = np.asarray(values, np.float32).view(np.uint32) >> 16
        return bits.astype("<u2").tobytes()
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I32": "<i4", "U8": "u1", "I8": "i1"}
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(kinds[kind]).tobytes()


def pack(header: object, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def own(random: Random, dtype: str = "") -> bytes:
    """A small file that LoRA² itself would write; its dtype is drawn unless given."""
    shapes = {f"l{i}": (random.randint(3, 9), random.randint(3, 9), 2, None) for i in range(3)}
    lora = random_lora(shapes, random.randrange(2**31)).rotated()
    return encode(lora, "own", "kohya", dtype or random.choice(["fp16", "fp32"]), {})


def header_of(data: bytes) -> tuple[dict, bytes]:
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


CLASSES: dict[str, Callable[[Random], Made]] = {}


def of_class(make: Callable[[Random], Made]) -> Callable[[Random], Made]:
    CLASSES[make.__name__] = make
    return make


def malformed(random: Random, name: str) -> Made:
    return CLASSES[name](random)


# The file as bytes


@of_class
def cut_off(random: Random) -> Made:
    data = Draft(random).packed()
    return data[: random.randrange(len(data))], []


@of_class
def bytes_after(random: Random) -> Made:
    return Draft(random).packed() + random.randbytes(random.randint(1, 100)), []


@of_class
def noise(random: Random) -> Made:
    return random.randbytes(random.randint(0, 2000)), []


@of_class
def other_formats(random: Random) -> Made:
    magic = [
        b"PK\x03\x04",
        b"\x80\x02}q\x00.",
        b"GGUF",
        b"<!DOCTYPE html>",
        b"\x1f\x8b",
        b"version",
    ]
    return random.choice(magic) + random.randbytes(random.randint(0, 500)), []


@of_class
def wrong_length(random: Random) -> Made:
    data = Draft(random).packed()
    length = int.from_bytes(data[:8], "little")
    other = random.choice([0, 1, length - 1, length + 1, length + 8, 2**31, 2**63, 2**64 - 1])
    return struct.pack("<Q", other) + data[8:], []


@of_class
def broken_json(random: Random) -> Made:
    header, payload = Draft(random).table()
    text = bytearray(json.dumps(header).encode())
    marks = [i for i, byte in enumerate(text) if byte in b'{}[]:,"']
    del text[random.choice(marks)]
    return pack(bytes(text), payload), []


@of_class
def flipped_bit_of_our_own(random: Random) -> Made:
    """In the payload, also of a file whose metadata was edited before."""
    header, payload = header_of(own(random))
    if random.random() < 0.5:
        header["__metadata__"]["modelspec.trigger_phrase"] = "an owl"
    damaged = bytearray(payload)
    damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    return pack(header, bytes(damaged)), []


@of_class
def payload_of_another(random: Random) -> Made:
    header, payload = header_of(own(random))
    changed = bytes(random.sample(payload, len(payload)))
    return pack(header, changed if changed != payload else bytes(len(payload))), []


# The header


@of_class
def no_object(random: Random) -> Made:
    return pack(random.choice([b"[]", b"null", b"3", b'"x"', b" {}", b"{}\n", b"{}{}"]), b""), []


@of_class
def no_utf8(random: Random) -> Made:
    return pack(b'{"\xff' + random.randbytes(5).hex().encode() + b'":1}', b""), []


@of_class
def half_a_character(random: Random) -> Made:
    header, payload = Draft(random).table()
    text = json.dumps(header).replace("block", rf"\ud8{random.randrange(256):02x}", 1)
    return pack(text.encode(), payload), []


@of_class
def control_character(random: Random) -> Made:
    header, payload = Draft(random).table()
    text = json.dumps(header).replace("block", chr(random.randrange(32)), 1)
    return pack(text.encode(), payload), []


@of_class
def nested(random: Random) -> Made:
    depth, mark = random.randint(3, 20_000), random.choice([b"[", b'{"a":'])
    return pack(b'{"a":' + mark * depth, b""), []


@of_class
def enormous_header(random: Random) -> Made:
    """Up to the longest that is read, and beyond."""
    size = random.randint(LONGEST_HEADER // 20, LONGEST_HEADER + 1000)
    filler = random.choice([b" ", b"[", b'"', b"\\", b"9", b'"",', b'"a":{},', "𝄞".encode()])
    return pack(b'{"a":' + filler * (size // len(filler)) + b"}", b""), []


@of_class
def doubled_key(random: Random) -> Made:
    draft = Draft(random)
    header, payload = draft.table()
    key = draft.pick()
    double = json.dumps({key: header[key]})[1:-1]
    return pack(f"{{{double},{json.dumps(header)[1:]}".encode(), payload), [key]


@of_class
def wrong_metadata(random: Random) -> Made:
    header, payload = Draft(random).table()
    header["__metadata__"] = random.choice([[], 3, None, "x", {"a": 1}, {"a": None}, {"a": {}}])
    return pack(header, payload), ["metadata"]


def with_entry(random: Random, **fields: object) -> Made:
    """One entry with other fields."""
    draft = Draft(random)
    header, payload = draft.table()
    key = draft.pick()
    header[key] |= fields
    return pack(header, payload), [key]


@of_class
def unknown_dtype(random: Random) -> Made:
    kinds = ["F33", "f32", "", "F8_E8M0", "F4", "C64", "str", 3, None, [], {"a": 1}, "F32\n"]
    return with_entry(random, dtype=random.choice(kinds))


@of_class
def other_dtype_size(random: Random) -> Made:
    draft = Draft(random)
    header, payload = draft.table()
    key = draft.pick()
    size = SIZES[header[key]["dtype"]]
    header[key]["dtype"] = random.choice([k for k in SIZES if SIZES[k] != size])
    return pack(header, payload), [key]


@of_class
def wrong_shape(random: Random) -> Made:
    shapes = [[-1], [2.5], [True], ["2"], [None], [[2]], "2", None, 3, {}, [2**31], [2**63, 2],
              [2**64], [0, 2**60], [10**30], [1] * 9, [0], [-(2**63)], [1e400]]  # fmt: skip
    return with_entry(random, shape=random.choice(shapes))


@of_class
def wrong_offsets(random: Random) -> Made:
    offsets = [[], [0], [0, 1, 2], [-4, 0], [4, 0], [0.0, 4.0], ["0", "4"], None, 0, [0, 2**63],
               [2**64, 2**64], [True, False], [0, 10**25]]  # fmt: skip
    return with_entry(random, data_offsets=random.choice(offsets))


@of_class
def overlap(random: Random) -> Made:
    draft = Draft(random)
    draft.add("lora_unet_twin" + draft.up, [5, 2])
    draft.add("lora_unet_twin" + draft.down, [2, 5])
    header, payload = draft.table()
    header["lora_unet_twin" + draft.down]["data_offsets"] = header["lora_unet_twin" + draft.up][
        "data_offsets"
    ]
    return pack(header, payload[:-40]), ["overlaps"]


@of_class
def hole(random: Random) -> Made:
    draft = Draft(random)
    header, payload = draft.table()
    gap = random.randint(1, 64)
    for entry in header.values():
        entry["data_offsets"] = [place + gap for place in entry["data_offsets"]]
    return pack(header, random.randbytes(gap) + payload), ["gap"]


@of_class
def missing_field(random: Random) -> Made:
    draft = Draft(random)
    header, payload = draft.table()
    key = draft.pick()
    del header[key][random.choice(["dtype", "shape", "data_offsets"])]
    return pack(header, payload), [key]


@of_class
def more_fields(random: Random) -> Made:
    return with_entry(random, **{random.choice(["strides", "x", ""]): [1]})


@of_class
def no_entry(random: Random) -> Made:
    draft = Draft(random)
    header, payload = draft.table()
    key = draft.pick()
    header[key] = random.choice([None, [], 3, "F32", True])
    return pack(header, payload), [key]


# The adapter


def changed(random: Random, change: Callable[[Draft], list[str]]) -> Made:
    draft = Draft(random)
    words = change(draft)
    return draft.packed(), words


@of_class
def not_finite(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        key = draft.pick(random.choice(["up", "down"]))
        tensor = draft.tensors[key]
        count = math.prod(tensor["shape"])
        values = [random.gauss(0, 1) for _ in range(count)]
        values[random.randrange(count)] = random.choice([NAN, INF, -INF])
        tensor["bytes"] = as_bytes(values, tensor["dtype"])
        return [key, "finite"]

    return changed(random, change)


@of_class
def too_large_for_fp32(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        base = random.choice(draft.bases)
        for key in (base + draft.up, base + draft.down):
            shape = draft.tensors[key]["shape"]
            draft.add(key, shape, "F64", [1e25] * math.prod(shape))
        if random.random() < 0.5:
            draft.add(key, shape, "F64", [1e300] * math.prod(shape))
        return [base, "finite"]

    return changed(random, change)


@of_class
def wrong_alpha(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        key = f"{random.choice(draft.bases)}.alpha"
        shape, values = random.choice(
            [([], [NAN]), ([], [INF]), ([], [-INF]), ([2], [1.0, 1.0]), ([0], []), ([1], [NAN])]
        )
        draft.add(key, shape, "F32", values)
        return [key]

    return changed(random, change)


@of_class
def lone_half(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        key = draft.pick(random.choice(["up", "down"]))
        del draft.tensors[key]
        return [key.removesuffix(draft.up).removesuffix(draft.down), "no complete"]

    return changed(random, change)


def reshaped(random: Random, shapes: list[tuple[list, list]]) -> Made:
    """One layer with other shapes of lora_up and lora_down."""

    def change(draft: Draft) -> list[str]:
        base, (up, down) = random.choice(draft.bases), random.choice(shapes)
        draft.add(base + draft.up, up)
        draft.add(base + draft.down, down)
        return [base]

    return changed(random, change)


@of_class
def ranks_differ(random: Random) -> Made:
    return reshaped(random, [([9, n], [n + 1, 7]) for n in range(1, 6)])


@of_class
def transposed(random: Random) -> Made:
    return reshaped(random, [([n, 9], [7, n]) for n in range(1, 6)])


@of_class
def no_rank(random: Random) -> Made:
    return reshaped(random, [([5, 0], [0, 6]), ([0, 2], [2, 6]), ([5, 2], [2, 0])])


@of_class
def dimensions(random: Random) -> Made:
    shapes = [([5], [5]), ([], []), ([5, 2, 3], [2, 6, 3]), ([5, 2, 1], [2, 6]),
              ([5, 2, 3, 3], [2, 6, 3, 3]), ([5, 2, 1], [2, 6, 1, 1]),
              ([5, 2, 1, 1, 1, 1], [2, 6, 1, 1, 1, 1])]  # fmt: skip
    return reshaped(random, shapes)


@of_class
def whole_numbers(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        key = draft.pick(random.choice(["up", "down"]))
        shape = draft.tensors[key]["shape"]
        draft.add(key, shape, random.choice(["I32", "U8", "I8"]), [1] * math.prod(shape))
        return [key]

    return changed(random, change)


Shapes = dict[str, list[int]]
# kinds of changes that are no pair -> the shapes of a sound one, for a weight of 6 x 8
OTHERS: dict[str, Shapes] = {
    "LoHa": {
        ".hada_w1_a": [6, 2], ".hada_w1_b": [2, 8], ".hada_w2_a": [6, 3], ".hada_w2_b": [3, 8],
    },
    "LoHa of a kernel": {
        ".hada_t1": [2, 2, 3, 3], ".hada_w1_a": [2, 6], ".hada_w1_b": [2, 8],
        ".hada_t2": [2, 2, 3, 3], ".hada_w2_a": [2, 6], ".hada_w2_b": [2, 8],
    },
    "LoKr": {".lokr_w1": [2, 2], ".lokr_w2_a": [3, 2], ".lokr_w2_b": [2, 4]},
    "LoKr of a kernel": {
        ".lokr_w1_a": [2, 1], ".lokr_w1_b": [1, 2], ".lokr_t2": [2, 2, 3, 3],
        ".lokr_w2_a": [2, 3], ".lokr_w2_b": [2, 4],
    },
    "GLoRA": {".a1.weight": [8, 2], ".a2.weight": [2, 8], ".b1.weight": [6, 2],
              ".b2.weight": [2, 8]},
    "OFT": {".oft_blocks": [2, 3, 3]},
    "BOFT": {".oft_blocks": [2, 2, 4, 4], ".alpha": []},
    "DoRA": {".lora_up.weight": [6, 2], ".lora_down.weight": [2, 8], ".dora_scale": [6, 1]},
    "norm": {".w_norm": [6], ".b_norm": [6]},
    "bias": {".diff_b": [6]},
}  # fmt: skip


def with_other(draft: Draft, kind: str) -> list[str]:
    """Adds a sound change of another kind, and returns its keys."""
    for ending, shape in OTHERS[kind].items():
        draft.add(f"lora_unet_other{ending}", shape)
    return [f"lora_unet_other{ending}" for ending in OTHERS[kind]]


@of_class
def half_of_another_kind(random: Random) -> Made:
    """One tensor of those that a change can't be without is missing, or has one side more."""

    def change(draft: Draft) -> list[str]:
        kind = random.choice([k for k in OTHERS if k not in ("OFT", "bias", "norm", "DoRA")])
        key = random.choice(with_other(draft, kind))
        shape = draft.tensors[key]["shape"]
        if kind == "BOFT":
            key = "lora_unet_other.oft_blocks"
            draft.add(key, [2, 2, 4, 4][: random.randint(1, 2)])
        elif random.random() < 0.5 or not kind.startswith("LoHa"):
            del draft.tensors[key]
        else:
            draft.add(key, [*shape[:-1], shape[-1] + 1] if random.random() < 0.5 else [*shape, 1])
        return ["lora_unet_other"]

    return changed(random, change)


@of_class
def another_kind_that_is_not_finite(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        key = random.choice(with_other(draft, random.choice(list(OTHERS))))
        shape = draft.tensors[key]["shape"]
        kind, value = random.choice(["F32", "F16", "BF16"]), random.choice([NAN, INF, -INF])
        values = [1.0] * math.prod(shape)
        values[random.randrange(len(values))] = value
        draft.add(key, shape, kind, values)
        return [key, "finite"]

    return changed(random, change)


@of_class
def another_kind_of_whole_numbers(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        keys = with_other(draft, random.choice(list(OTHERS)))
        key = random.choice([k for k in keys if not k.endswith(".alpha")])
        shape = draft.tensors[key]["shape"]
        draft.add(key, shape, random.choice(["I32", "U8", "I8"]), [1] * math.prod(shape))
        return [key]

    return changed(random, change)


@of_class
def another_kind_too_large(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        kind = random.choice(["LoHa", "LoKr", "GLoRA", "DoRA"])
        for key in with_other(draft, kind):
            draft.add(key, (shape := draft.tensors[key]["shape"]), "F32", [1e25] * math.prod(shape))
        return ["lora_unet_other", "finite"]

    return changed(random, change)


@of_class
def scale_that_does_not_fit(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        base = random.choice(draft.bases)
        rows = draft.tensors[base + draft.up]["shape"][0]
        columns = draft.tensors[base + draft.down]["shape"][1]
        shapes = [[rows], [rows + 1, 1], [rows, columns], [1, columns + 1], [0, 1], []]
        draft.add(f"{base}.dora_scale", random.choice(shapes))
        return [base]

    return changed(random, change)


@of_class
def growth_to_gigabytes(random: Random) -> Made:
    """A `reshape_weight` makes the stock loader allocate what it says."""

    def change(draft: Draft) -> list[str]:
        key = f"{random.choice(draft.bases)}.reshape_weight"
        shapes = [[200000, 5000], [2**30, 2**30], [-1, 7], [0, 0], [5], [2, 3, 4, 5, 6, 7]]
        shape = random.choice(shapes)
        draft.add(key, [len(shape)], random.choice(["I32", "F32"]), shape)
        return [key.removesuffix(".reshape_weight")]

    return changed(random, change)


@of_class
def another_kind_that_is_empty(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        endings = [".diff", ".diff_b", ".set_weight", ".oft_blocks", ".w_norm"]
        key = f"lora_unet_other{random.choice(endings)}"
        draft.add(key, random.choice([[0], [0, 3], [3, 0, 3]]))
        return ["lora_unet_other"]

    return changed(random, change)


@of_class
def no_lora_at_all(random: Random) -> Made:
    """A checkpoint, an embedding, or what means nothing alone."""
    names = ["model.diffusion_model.out.2.weight", "a.reshape_weight", "", "x", "lora_up",
             "a.weight", "emb_params", "bundle_emb.owl.clip_l", "a.alpha", "a.dora_scale",
             "a.magnitude", "a.diff_m", "a.b_norm", "a.rescale"]  # fmt: skip
    draft = Draft(random)
    draft.tensors = {}
    for name in random.sample(names, random.randint(1, 4)):
        draft.add(name, [2], "F32", [200000, 5000])
    return draft.packed(), ["not a LoRA file"]


@of_class
def misleading_names(random: Random) -> Made:
    """Keys that would break a line of the log or turn its text around."""
    marks = [
        "\n",
        "\r",
        "\u2028",
        "\u202e",
        "\x1b[2J",
        "\t",
        "\u200f",
        "<img src=x onerror=alert(1)>",
    ]

    def change(draft: Draft) -> list[str]:
        name = f"lora{random.choice(marks)}unet{'x' * random.choice([0, 5000])}"
        draft.add(f"{name}.{random.choice(['lora_up.weight', 'lokr_w1', 'oft_blocks'])}", [2])
        return []

    return changed(random, change)


@of_class
def same_role_twice(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        base = random.choice(draft.bases)
        other = ".lora_B.default.weight" if draft.up != ".lora_B.default.weight" else ".lora_B"
        draft.add(base + other, draft.tensors[base + draft.up]["shape"])
        return [base]

    return changed(random, change)


@of_class
def mid_that_does_not_fit(random: Random) -> Made:
    def change(draft: Draft) -> list[str]:
        draft.add("lora_unet_conv.lora_up.weight", [5, 2, 1, 1])
        # the largest kernel makes it 5 times as large as lora_mid, one more than is allowed
        draft.add("lora_unet_conv.lora_down.weight", [2, 10, 1, 1])
        shapes = [[3, 3, 3, 3], [2, 2], [2, 2, 3], [2, 3, 3, 3], [2, 2, 0, 3], [2, 2, 100, 100]]
        draft.add("lora_unet_conv.lora_mid.weight", random.choice(shapes))
        return ["lora_unet_conv"]

    return changed(random, change)


@of_class
def misread_payload_of_our_own(random: Random) -> Made:
    """The bytes are ours and whole, but the header says that some are other numbers."""
    header, payload = header_of(own(random, "fp16"))
    keys = [key for key in header if key.endswith(".weight")]
    for key in random.sample(keys, random.randint(1, len(keys))):
        header[key]["dtype"] = "BF16"
    return pack(header, payload), ["is damaged"]


@of_class
def nothing(random: Random) -> Made:
    return pack(random.choice([{}, {"__metadata__": {}}, {"__metadata__": {"a": "b"}}]), b""), []


@of_class
def large_and_not_finite(random: Random) -> Made:
    """Some megabytes, wrong in the last value."""
    rows = random.randint(50_000, 500_000)
    end = 64 + 8 * rows
    header = {
        "a.lora_down.weight": {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
        "a.lora_up.weight": {"dtype": "F16", "shape": [rows, 4], "data_offsets": [64, end]},
    }
    payload = np.ones(32 + 4 * rows, "<f2")
    payload[-1] = random.choice([NAN, INF])
    return pack(header, payload.tobytes()), ["a.lora_up.weight", "finite"]
