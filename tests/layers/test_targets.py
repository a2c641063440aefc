"""Which layers a choice takes, on a small tree of the names that real models have."""

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.layers.targets import (
    LAYERS,
    TargetSettings,
    block_of,
    blocks,
    find_layers,
    with_layers,
)
from lora2_core.ranks.layer_ranks import Line, lines_of, parse
from lora2_core.ranks.modes import MODES
from lora2_core.ranks.rank import rate_for
from lora2_core.training.auction import PaperPrice


def tree(names: dict[str, nn.Module]) -> nn.Module:
    root = nn.Module()
    for name, leaf in names.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.add_module(last, leaf)
    return root


def linear() -> nn.Linear:
    return nn.Linear(8, 8)


UNET = tree(
    {
        f"diffusion_model.{name}": leaf
        for name, leaf in {
            "time_embed.0": linear(),
            "input_blocks.0.0": nn.Conv2d(4, 8, 3),
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q": linear(),
            "input_blocks.4.1.transformer_blocks.0.attn2.to_out.0": linear(),
            "input_blocks.4.1.transformer_blocks.0.ff.net.0.proj": linear(),
            "input_blocks.4.1.transformer_blocks.0.norm1": nn.LayerNorm(8),
            "input_blocks.14.1.transformer_blocks.0.attn1.to_q": linear(),
            "middle_block.1.transformer_blocks.0.attn1.to_k": linear(),
            "output_blocks.0.1.transformer_blocks.0.ff.net.2": linear(),
            "output_blocks.3.0.in_layers.2": nn.Conv2d(8, 8, 3),
        }.items()
    }
)
FLUX = tree(
    {
        f"diffusion_model.{name}": linear()
        for name in (
            "img_in", "double_blocks.0.img_attn.qkv", "double_blocks.0.txt_mlp.2",
            "double_blocks.11.img_attn.proj", "single_blocks.3.linear1",
            "single_blocks.3.modulation.lin",
        )
    }
)  # fmt: skip


def chosen(model: nn.Module, **settings: str) -> list[str]:
    return [n.removeprefix("diffusion_model.") for n in TargetSettings(**settings).chosen(model)]


def test_kinds_of_layers():
    assert chosen(UNET) == chosen(UNET, layers="attention")
    assert len(chosen(UNET, layers="attention")) == 4
    assert len(chosen(UNET, layers="attention + feed-forward")) == 6
    assert len(chosen(UNET, layers="all linear")) == 7
    assert len(chosen(UNET, layers="all linear + conv")) == 9
    assert chosen(FLUX, layers="attention") == [
        "double_blocks.0.img_attn.qkv", "double_blocks.11.img_attn.proj", "single_blocks.3.linear1",
    ]  # fmt: skip
    assert "double_blocks.0.txt_mlp.2" in chosen(FLUX, layers="attention + feed-forward")
    assert len(chosen(FLUX, layers="all linear")) == 6


@pytest.mark.parametrize(
    ("blocks", "left"),
    [
        ("down", ["4", "4", "14"]),
        ("down 4", ["4", "4"]),
        ("down 0-9", ["4", "4"]),
        ("input_blocks.4, mid", ["4", "4", "1"]),
        (" down 14 ,, mid ", ["14", "1"]),
        ("transformer_blocks 0", ["4", "4", "14", "1"]),
    ],
)
def test_blocks_by_name_number_and_range(blocks: str, left: list[str]):
    found = chosen(UNET, only_blocks=blocks)
    assert [name.split(".")[1] for name in found] == left
    rest = [n for n in chosen(UNET) if n not in found]
    if rest:
        assert chosen(UNET, without_blocks=blocks) == rest


def test_single_and_double_blocks():
    assert chosen(FLUX, only_blocks="single") == ["single_blocks.3.linear1"]
    assert chosen(FLUX, without_blocks="double 11, single") == ["double_blocks.0.img_attn.qkv"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layers": "some"}, "layers is 'some': choose auto, regex, attention"),
        ({"only_blocks": "down 4-"}, "only_blocks has 'down 4-', which is no block"),
        ({"only_blocks": "up 3-1"}, "only_blocks has 'up 3-1', which is no block"),
        ({"without_blocks": "the first"}, "without_blocks has 'the first', which is no block"),
        ({"only_blocks": "single"}, "no layer there: its blocks are down, mid, up"),
        ({"only_blocks": "down 5"}, "only_blocks has 'down 5', but this model has no layer there"),
        ({"without_blocks": "transformer_blocks"}, "leave no layer to train: take more blocks"),
        ({"targets": "attn3"}, "match no Linear or Conv2d layer"),
        ({"targets": "("}, "targets is not a regular expression"),
    ],
)
def test_bad_choices(settings: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as error:
        TargetSettings(**settings).chosen(UNET)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "'('"))


@pytest.mark.parametrize(
    ("chain", "said", "layers"),
    [
        ({}, None, None),
        ({}, "auto", "auto"),
        ({}, "all linear", "all linear"),
        ({"layers": "auto"}, "all linear", "all linear"),
        ({"layers": "auto"}, None, "auto"),
        ({"layers": "attention"}, "all linear", "attention"),
        ({"layers": "regex", "targets": "attn2"}, "all linear", "regex"),
        ({"targets": "attn2"}, "all linear", None),
    ],
)
def test_a_chain_counts_before_what_the_node_says(chain: dict, said: str, layers: str):
    assert with_layers(chain, said).get("layers") == layers


@pytest.mark.parametrize(("mode", "kind"), [(m.name, m.defaults.layers) for m in MODES.values()])
def test_auto_means_the_kind_of_layers_that_suits_the_mode(mode: str, kind: str):
    """The paper trains attention; plain LoRA gets the same layers as adaptive, to be compared."""
    assert kind == ("attention" if mode == "paper" else "all in blocks") and kind in LAYERS
    chosen = TargetSettings("auto", only_blocks="mid").resolved(MODES[mode])
    assert chosen == TargetSettings(kind, only_blocks="mid")
    assert TargetSettings().resolved(MODES[mode]) == TargetSettings()


# ranks of single layers


def test_the_first_line_that_matches_counts():
    lines = "# cross-attention\nattn2 = 16 target 8\n\n attn = 4 \nx==3"
    first, second = Line("attn2", 16, 8), Line("attn", 4)
    assert parse(lines) == [first, second, Line("x=", 3)]
    found = lines_of("attn2 = 16 target  8\nattn = 4", ["attn1", "attn2", "ff"])
    assert found == {"attn1": second, "attn2": first}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("attn2", "layer_ranks has the line 'attn2': write a pattern"),
        ("attn2 = 0", "layer_ranks has the line 'attn2 = 0'"),
        ("attn2 = 5000", "a rank from 1 to 4096"),
        ("= 4", "layer_ranks has the line '= 4'"),
        ("attn2 = 8 target", "layer_ranks has the line 'attn2 = 8 target': write a pattern"),
        ("attn2 = 8 target 9", "'attn2 = 8 target 9', whose target is not from 1 to 8"),
        ("attn2 = 8 target 0", "whose target is not from 1 to 8: lower the target"),
        ("( = 4", r"layer_ranks has the pattern '\(', which is no regular expression"),
        ("l1 = 9", "above max_rank 8: raise max_rank or lower the rank"),
    ],
)
def test_bad_lines(text: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        lora2.RankSettings(target_rank=4, max_rank=8, layer_ranks=text)


def test_a_line_that_no_layer_heeds_is_named():
    settings = lora2.RankSettings(target_rank=4, max_rank=8, layer_ranks="0 = 4\n0$ = 2")
    with pytest.raises(ValueError, match=r"rank 2 to '0\$', which no layer to train heeds"):
        lora2.attach(nn.Sequential(linear(), linear()), r"\d$", settings)


@pytest.mark.parametrize(
    ("mode", "ranks"), [("fixed", [8, 2, 4]), ("adaptive", [8, 2, 8]), ("paper", [4, 2, 4])]
)
def test_ranks_of_single_layers(mode: str, ranks: list[int]):
    """fixed: exactly; else at most."""
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
    lines = "0$ = 8\n1$ = 2"
    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=8, layer_ranks=lines)
    adapters = lora2.attach(model, r"\d$", settings)
    assert list(adapters.ranks.values()) == ranks
    assert adapters.max_ranks.tolist() == [8, 2, 8]


def targeted(mode: str, lines: str, **settings) -> lora2.Adapters:
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
    chosen = {"target_rank": 4, "max_rank": 16} | settings
    return lora2.attach(model, r"\d$", lora2.RankSettings(mode, layer_ranks=lines, **chosen))


def test_targets_of_single_layers():
    """fixed: the rank; paper: where the rate is pulled to; adaptive: the layer's part of the size,
    and where it begins.
    """
    lines = "0$ = 16 target 8\n1$ = 2"
    assert list(targeted("fixed", lines).ranks.values()) == [8, 2, 4]
    assert list(targeted("fixed", lines, start_rank=5).ranks.values()) == [8, 2, 5]
    paper = targeted("paper", lines)
    assert list(paper.ranks.values()) == [8, 2, 4]
    wanted = [rate_for(rank, 0.9) for rank in (8, 4, 4)]
    assert PaperPrice(paper, 10).target.tolist() == pytest.approx(wanted)
    adaptive = targeted("adaptive", lines)
    assert list(adaptive.ranks.values()) == [16, 2, 16]
    assert adaptive.ceiling == 64 * (8 + 4 + 4)
    wanted = torch.tensor([8.0, 4, 4])  # each moves as far as a plain LoRA of its target
    torch.testing.assert_close(adaptive.weights.square().sum(1).detach(), wanted)
    assert targeted("adaptive", "0$ = 16").ceiling == 64 * 12


def test_a_layer_trains_to_its_own_target():
    """paper mode with a heavy pull: the rank of one layer goes where the line says."""
    adapters = targeted("paper", "0$ = 16 target 10", start_rank=4, rank_weight=10.0)

    def loss(generator):
        return sum(c.lora_down.square().sum() * 0 for c in adapters.components.values())

    for _ in lora2.train(adapters, loss, lora2.TrainSettings(300, 1e-3)):
        pass
    first, *others = adapters.ranks.values()
    assert abs(first - 10) <= 1 and others == [4, 4]


def test_a_size_leaves_no_room_for_targets():
    with pytest.raises(ValueError, match="but budget_mb 1 takes the place of targets: set it to 0"):
        lora2.RankSettings(budget_mb=1.0, layer_ranks="x = 8 target 4")
    lora2.RankSettings(budget_mb=1.0, layer_ranks="x = 8")


def test_a_rank_above_the_smaller_side_of_a_layer_is_named():
    model = nn.Sequential(linear(), nn.Conv2d(8, 4, 3))
    settings = lora2.RankSettings(target_rank=4, max_rank=16, layer_ranks=". = 6")
    with pytest.raises(ValueError, match="rank 6 to 1, which is 4 x 72 and has at most 4: lower"):
        lora2.attach(model, r"\d$", settings)


@pytest.mark.parametrize("model", [UNET, FLUX])
def test_a_layers_block_is_one_that_can_be_chosen(model: nn.Module):
    for name in find_layers(model, "."):
        (block,) = blocks("only_blocks", block_of(name))
        assert block.holds(name)
    names = "input_blocks.4.1.to_q", "middle_block.1.x", "img_in"
    assert [block_of(f"diffusion_model.{n}") for n in names] == ["down 4", "mid", "img_in"]


def test_names_are_targets_too():
    model = nn.Sequential(linear(), linear())
    assert list(lora2.attach(model, find_layers(model, "1$")).components) == ["1"]
