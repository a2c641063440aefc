"""What each layer is for, on small models of made-up classes that nobody named anywhere."""

from copy import deepcopy

import pytest
from torch import nn

from lora2_core.layers.structure import (
    ATTENTION,
    CONVOLUTION,
    FEED_FORWARD,
    FUSED,
    MODULATION,
    OUTSIDE,
    PROJECTION,
    places,
)
from lora2_core.layers.targets import ATTENTION as PATTERN
from lora2_core.layers.targets import TargetSettings

WIDTH = 16


def layers(**shapes: tuple[int, int]) -> nn.Module:
    """A module with a Linear of each name, (inputs, outputs)."""
    made = nn.Module()
    for name, (inputs, outputs) in shapes.items():
        made.add_module(name, nn.Linear(inputs, outputs))
    return made


def square(*names: str) -> nn.Module:
    return layers(**dict.fromkeys(names, (WIDTH, WIDTH)))


class Wrapped(nn.Module):
    """A block of named parts, between an embedder and a head."""

    def __init__(self, *blocks: nn.Module, listed: bool = True):
        super().__init__()
        self.first = nn.Linear(4, WIDTH)
        self.time_in = nn.Sequential(nn.Linear(8, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        if listed:
            self.stages = nn.ModuleList(blocks)
        else:
            for number, block in enumerate(blocks):
                self.add_module(f"stage{number}", block)
        self.last = nn.Linear(WIDTH, 4)


def block(**parts: nn.Module) -> nn.Module:
    made = nn.Module()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


MLP = {"wide": (WIDTH, 64), "slim": (64, WIDTH)}
CASES = {
    # the layers of a block by name -> the kind of each
    "names say q, k and v": (
        block(mix=square("wq", "wk", "wv", "wo", "gate"), mlp=layers(up=(16, 40), down=(40, 16))),
        {"mix.wq mix.wk mix.wv mix.wo mix.gate": ATTENTION, "mlp.up mlp.down": FEED_FORWARD},
    ),
    "long names, and a part of its own": (
        block(self_attention=square("to_query", "to_key", "to_value", "out_layer")),
        {
            "self_attention.to_query self_attention.to_key self_attention.to_value": ATTENTION,
            "self_attention.out_layer": ATTENTION,
        },
    ),
    "wrapped in sequences": (
        block(attn=block(to_q=nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)),
                         to_out=nn.Sequential(nn.Linear(16, 16)))),
        {"attn.to_q.0 attn.to_out.0": ATTENTION},
    ),
    "no part at all": (
        layers(q=(16, 16), k=(16, 16), v=(16, 16), attn_out=(16, 16), ff_a=(16, 64),
               ff_b=(64, 16)),
        {"q k v attn_out": ATTENTION, "ff_a ff_b": FEED_FORWARD},
    ),
    "names say nothing, shapes do": (
        block(alpha=layers(a=(16, 48), b=(16, 16)), beta=layers(c=(16, 64), d=(64, 16))),
        {"alpha.a alpha.b": ATTENTION, "beta.c beta.d": FEED_FORWARD},
    ),
    "four squares": (
        block(alpha=square("a", "b", "c", "d"), beta=layers(**MLP)),
        {"alpha.a alpha.b alpha.c alpha.d": ATTENTION, "beta.wide beta.slim": FEED_FORWARD},
    ),
    "gated feed-forward": (
        block(attn=square("q", "o"), x=layers(a=(16, 128), b=(64, 16))),
        {"attn.q attn.o": ATTENTION, "x.a x.b": FEED_FORWARD},
    ),
    "attention and feed-forward in one": (
        layers(linear1=(16, 3 * 16 + 64), linear2=(16 + 64, 16)), {"linear1 linear2": FUSED},
    ),
    "the same, gated": (
        layers(one=(16, 3 * 16 + 2 * 64), two=(16 + 64, 16)), {"one two": FUSED},
    ),
    "modulation by its name": (
        block(attn=square("q", "o"), adaLN_modulation=nn.Sequential(nn.Linear(16, 96)),
              img_mod=layers(lin=(16, 96)), norm1=layers(linear=(16, 96))),
        {"attn.q attn.o": ATTENTION,
         "adaLN_modulation.0 img_mod.lin norm1.linear": MODULATION},
    ),
    "modulation by its place": (
        block(attn=square("q", "o"), x=nn.Sequential(nn.SiLU(), nn.Linear(16, 96))),
        {"attn.q attn.o": ATTENTION, "x.1": MODULATION},
    ),
    "convolutions": (
        block(conv=nn.Conv2d(8, 8, 3), skip=nn.Conv2d(8, 8, 1), volume=nn.Conv3d(8, 8, 3)),
        {"conv skip volume": CONVOLUTION},
    ),
    "a projection beside": (
        block(attn=square("q", "o"), before_proj=nn.Linear(16, 16)),
        {"attn.q attn.o": ATTENTION, "before_proj": PROJECTION},
    ),
}  # fmt: skip


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_layers_of_a_block(case: str, listed: bool):
    """In module lists, and as siblings of one class. Outside of blocks nothing is a target."""
    made, kinds = CASES[case]
    wanted = {name: kind for names, kind in kinds.items() for name in names.split()}
    found = places(Wrapped(made, deepcopy(made), listed=listed))
    path = "stages.1." if listed else "stage1."
    assert {n.removeprefix(path): p.kind for n, p in found.items() if n.startswith(path)} == wanted
    outside = {n for n, p in found.items() if p.kind == OUTSIDE}
    assert outside == {"first", "time_in.0", "time_in.2", "last"}


def test_blocks_that_only_embed_are_outside():
    """Lists of embedders, of single projections, and of what makes modulations."""

    class ShiftEmbedder(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_layer, self.out_layer = nn.Linear(8, 64), nn.Linear(64, 8)

    model = Wrapped(ShiftEmbedder(), ShiftEmbedder())
    assert {p.kind for p in places(model).values()} == {OUTSIDE}
    model = Wrapped(layers(a=(8, 16)), layers(a=(8, 16)))
    assert {p.kind for p in places(model).values()} == {OUTSIDE}


def test_what_a_weight_holds():
    model = Wrapped(
        block(
            attn=layers(qkv=(16, 48), proj=(16, 16)), cross=layers(to_kv=(16, 32), to_q=(16, 16))
        ),
        layers(linear1=(16, 112), linear2=(80, 16)),
    )
    holds = {
        n.partition(".1.")[2] or n.partition(".0.")[2]: p.holds for n, p in places(model).items()
    }
    wanted = {
        "attn.qkv": "qkv", "attn.proj": "", "cross.to_kv": "kv", "cross.to_q": "q",
        "linear1": "qkv + feed-forward", "linear2": "out + feed-forward",
    }  # fmt: skip
    assert {k: v for k, v in holds.items() if k in wanted} == wanted


def test_a_choice_on_a_model_that_nobody_named():
    made = CASES["names say nothing, shapes do"][0]
    model = Wrapped(made, deepcopy(made))
    attention = [f"stages.{i}.alpha.{n}" for i in (0, 1) for n in "ab"]
    assert list(TargetSettings().chosen(model)) == attention
    assert list(TargetSettings(targets=PATTERN).chosen(model)) == attention, "as workflows hold it"
    assert list(TargetSettings(layers="attention").chosen(model)) == attention
    assert len(TargetSettings(layers="attention + feed-forward").chosen(model)) == 8
    assert len(TargetSettings(layers="all in blocks").chosen(model)) == 8
    assert list(TargetSettings(targets=r"beta\.d$").chosen(model)) == [
        "stages.0.beta.d", "stages.1.beta.d",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no layers of the kind 'attention' in blocks that repeat"):
        TargetSettings().chosen(nn.Sequential(nn.Linear(4, 4)))
