"""Parts of a model by its structure: no name of a model family is looked for."""

import pytest
from torch import nn

from lora2_core.layers.parts import part_of, parts


class Attention(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))


class FeedForward(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class Block(nn.Module):
    """A transformer block with as many streams as it has feed-forwards."""

    def __init__(self, streams: int):
        super().__init__()
        self.attn = Attention()
        for n in range(streams):
            self.add_module(f"ff_{'abc'[n]}", FeedForward())


class Holder(nn.Module):
    def __init__(self, **lists: nn.Module):
        super().__init__()
        self.embed_in = nn.Linear(4, 8)
        for name, module in lists.items():
            self.add_module(name, module)


def stack(*streams: int) -> nn.ModuleList:
    return nn.ModuleList(Block(n) for n in streams)


@pytest.mark.parametrize("wrapped", [False, True])
def test_blocks_with_two_feed_forwards_are_double(wrapped):
    both, one = stack(2, 2, 1), stack(1, 1)
    if wrapped:  # each block alone in a module of its own
        both = nn.ModuleList(Holder(block=block) for block in both)
        for entry in both:
            del entry.embed_in
    found = parts(Holder(many=both, few=one))
    assert {name.partition(".")[0]: part for name, part in found.items()} == {
        "many": "double", "few": "single",
    }  # fmt: skip
    assert part_of("many.1.attn.q" if not wrapped else "many.1.block.attn.q", found) == "double"
    assert part_of("few.0", found) == "single" and part_of("embed_in", found) == "other"


def test_a_model_that_goes_down_and_up_has_three_parts():
    found = parts(Holder(down_way=stack(1, 1), mid_way=stack(1), up_way=stack(1, 1)))
    assert sorted(set(found.values())) == ["down", "mid", "up"] and len(found) == 5
    assert part_of("up_way.1.ff_a.wide", found) == "up"
    lone = parts(Holder(output_layers=stack(1, 1)))
    assert set(lone.values()) == {"single"}
