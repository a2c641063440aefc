"""The picture of the ranks: one size, and it shows a difference."""

import numpy as np
import pytest

from lora2_core.charts.heatmap import draw
from tests.toys import random_lora

SHAPES = {
    f"input_blocks.{b}.1.transformer_blocks.0.attn{n}.to_{leaf}": (12, 12, 1 + b, None)
    for b in (4, 5) for n in (1, 2) for leaf in "qkv"
}  # fmt: skip


def test_a_picture_of_1024_columns_that_differs_when_ranks_differ():
    lora = random_lora(SHAPES)
    first, again, cut = draw(lora), draw(lora), draw(lora.truncated(0.5))
    assert first.dtype == np.uint8
    assert first.ndim == 3 and first.shape[1:] == (1024, 3)
    assert np.array_equal(first, again), "the same ranks, the same picture"
    assert not np.array_equal(first, cut)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 16, "it is not empty"


def test_one_rank_more_is_seen():
    more = dict(SHAPES)
    name = next(iter(more))
    more[name] = (*more[name][:2], more[name][2] + 1, None)
    # the same title line, so that only the cell can differ
    a, b = draw(random_lora(SHAPES), "x"), draw(random_lora(more), "x")
    assert not np.array_equal(a[100:], b[100:])


@pytest.mark.parametrize("name", ["proj", "a.0.b", "diffusion_model.double_blocks.3.img_attn.qkv"])
@pytest.mark.parametrize("rank", [0, 1, 300])
def test_any_name_and_any_rank_can_be_drawn(name: str, rank: int):
    assert draw(random_lora({name: (300, 300, rank, None)})).shape[1:] == (1024, 3)


def test_more_blocks_make_a_higher_picture():
    tall = {f"blocks.{i}.qkv": (4, 4, 1, None) for i in range(60)}
    assert len(draw(random_lora(tall))) > len(draw(random_lora(SHAPES)))


def test_two_adapters_are_drawn_beside_their_difference():
    lora = random_lora(SHAPES).rotated()
    alone, same, cut = draw(lora), draw(lora, compare=lora), draw(lora, compare=lora.truncated(0.5))
    assert alone.shape[1] < same.shape[1] == cut.shape[1]
    blue = np.array([0x1F, 0x5F, 0xA8])

    def has_blue(picture: np.ndarray) -> bool:
        return bool((np.abs(picture[:, -500:-120].astype(int) - blue).sum(axis=2) < 6).any())

    assert has_blue(cut) and not has_blue(same), "what is less is blue"


def test_adapters_of_other_layers_can_be_compared():
    other = {"diffusion_model.double_blocks.0.img_attn.qkv": (8, 8, 3, None)}
    assert draw(random_lora(SHAPES), compare=random_lora(other)).ndim == 3
