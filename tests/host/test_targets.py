"""Every kind of layers on the host's own models: found, trained, and loaded in the stock loader."""

import comfy.sd
import comfy.supported_models
import comfy.utils
import pytest
import torch
from comfy.model_base import ModelType

from lora2_core import save
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.facts import settings_of
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import AUTO, KINDS, TargetSettings

from .flow_models import FAMILIES, build
from .test_real_shapes import UNETS, patcher
from .untrained import untrained

FIELDS = {"steps": 2, "learning_rate": 1e-2, "mode": "fixed", "target_rank": 2, "batch_size": 2}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_kind_takes_more_of_a_flow_model(name: str):
    model = build(name).model
    counts = [len(TargetSettings(layers=kind).chosen(model)) for kind in KINDS]
    assert counts == sorted(counts)
    assert counts[0] == FAMILIES[name].layers
    assert counts[1] > counts[0]
    assert counts[3] > counts[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_a_flow_model_loads_in_the_stock_loader(name: str, kind: str, tmp_path):
    model = build(name)
    check_stock(model, untrained(model, TargetSettings(layers=kind)), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["SDXL", "SD1.5"])
def test_kinds_of_a_unet(name: str, kind: str):
    model = patcher(*UNETS[name], torch.float32, ModelType.EPS).model
    found = TargetSettings(layers=kind).chosen(model)
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in found.values())
    if kind == "all linear + conv":
        adaptable = (torch.nn.Linear, torch.nn.Conv2d)
        assert len(found) == sum(isinstance(m, adaptable) for m in model.modules())
    elif (
        kind != "all in blocks" and name == "SDXL"
    ):  # SD1.5 has convolutions around its attention, not inside
        assert convolutions == 0
    sides = TargetSettings(layers=kind, only_blocks="down, mid").chosen(model)
    rest = TargetSettings(layers=kind, without_blocks="down, mid").chosen(model)
    assert sides.keys() | rest.keys() == found.keys() and not sides.keys() & rest.keys()


def check_stock(model, lora, folder) -> None:
    path = folder / "a.safetensors"
    save(path, lora, diffusers=lora.origin.base.diffusers)
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    stock, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    assert len(stock.patches) == sum(rank > 0 for rank in lora.ranks.values()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_playground_trains_with_ranks_of_its_own(playground, kind, tmp_path):
    fields = FIELDS | {"layers": kind, "layer_ranks": "attn2.*to_k = 1"}
    data = playground.model, playground.latents, playground.positive
    out = train_on(*data, Choices.of(fields), lambda step: None)
    keys = {n for n in out.lora.layers if n.endswith("attn2.to_k")}
    assert keys and all(r == (1 if n in keys else 2) for n, r in out.lora.ranks.items())
    check_stock(playground.model, out.lora, tmp_path)
    assert out.lora.origin.run.settings["layers"] == kind


def test_the_layers_node_shows_what_would_be_trained(nodes, playground):
    (options,) = (
        nodes["LoRA2TargetOptions"]
        .execute(targets="attn2", only_blocks="mid", layer_ranks="to_k = 4")
        .result
    )
    shown = nodes["LoRA2Layers"].execute(playground.model, options)
    table, count, names = shown.result[:3]
    lines = table.split("\n")
    run = Choices.of({**options, **FIELDS})
    assert count == len(lines) - 1 == len(run.target.chosen(playground.model.model))
    for line in lines[1:]:
        block, name, shape, rank, target, cost, parameters, kind, holds = line.split("\t")
        assert (kind, holds) == ("attention", "" if "to_out" in name else name[-1])
        assert block == "mid" and name == names.pop(0)
        module = playground.model.model.get_submodule(name)
        assert shape == f"{module.out_features} x {module.in_features}"
        most = 4 if name.endswith("to_k") else min(module.in_features, module.out_features)
        assert (int(rank), int(cost)) == (most, module.in_features + module.out_features)
        assert int(target) == min(most, 64) and int(parameters) == int(target) * int(cost)
    (text,) = shown.ui["text"]
    assert text.startswith(f"{count} of ") and "\nmid" in text
    assert f"\nchosen: {count} attention\nleft out: " in text

    whole = nodes["LoRA2Layers"].execute(playground.model, target_rank=2)
    table, count, names = whole.result[:3]
    assert count == len(names) == 56
    size = sum(int(line.split("\t")[6]) for line in table.split("\n")[1:])
    assert f"{2 * size / 1e6:,.1f} MB (fp16) at rank 2\n" in whole.ui["text"][0]
    node, kinds = nodes["LoRA2Layers"], (AUTO, *KINDS)
    counts = [node.execute(playground.model, layers=kind).result[1] for kind in kinds]
    assert counts == [107, 56, 70, 107, 96, 120]


def test_old_workflows_choose_as_before(nodes):
    """Saved with nothing but the pattern."""
    (options,) = nodes["LoRA2TargetOptions"].execute(targets="attn2").result
    run = Choices.of(options | FIELDS)
    assert run.target == TargetSettings(targets="attn2")
    new = {"layers", "only_blocks", "without_blocks", "layer_ranks"}
    assert not new & settings_of(run).keys(), "a checkpoint of theirs goes on"
    assert settings_of(run)["targets"] == "attn2"


@pytest.mark.parametrize(
    ("said", "mode", "count"),
    [
        ({}, "adaptive", 56), ({"layers": ["auto"]}, "adaptive", 107),
        ({"layers": ["auto"]}, "fixed", 107), ({"layers": ["auto"]}, "paper", 56),
        ({"layers": ["all linear"]}, "paper", 96),
    ],
)  # fmt: skip
def test_a_run_trains_the_layers_that_the_node_says(nodes, playground, said, mode, count):
    """A workflow that was saved before the field was there keeps the attention."""
    fields = {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [1], "batch_size": [1], "learning_rate": [1e-3],
        "mode": [mode], "target_rank": [1], "budget_mb": [0.0], "max_rank": [4], "seed": [0],
    }  # fmt: skip
    (lora, *_) = nodes["LoRA2Train"].execute(**fields, **said).result
    assert len(lora.layers) == count


def test_contradictions_are_named_before_training(nodes, playground):
    fields = {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [2], "batch_size": [1], "learning_rate": [1e-3],
        "mode": ["adaptive"], "target_rank": [4], "budget_mb": [0.0], "max_rank": [16], "seed": [0],
    }  # fmt: skip
    for choice, sentence in (
        ({"layers": "attention", "only_blocks": "double"}, "its blocks are down, mid, up"),
        ({"layer_ranks": "attn2 = 32"}, "above max_rank 16"),
        ({"layers": "all linear + conv", "layer_ranks": ". = 9"}, "gives rank 9 to .* at most 8"),
        ({"layer_ranks": "attn3 = 4"}, "rank 4 to 'attn3', which no layer to train heeds"),
    ):
        with pytest.raises(ValueError, match=sentence):
            nodes["LoRA2Train"].execute(**fields, options=[choice])


def test_the_picture_knows_which_layers_learned_nothing_in_a_run(nodes):
    """Of a model whose last block's text nobody reads, and that nobody named here."""
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.idle import idle
    from lora2_core.host.training.live import Origin
    from lora2_core.host.training.run_view import RunView
    from tests.host.flow_models import build, pictures

    model = build("Qwen-Image")
    node = nodes["LoRA2Layers"]
    before = node.execute(model)
    assert "idle" not in before.ui["text"][0] and before.result[3].shape[2:] == (1024, 3)
    fields = {"steps": 3, "mode": "fixed", "target_rank": 2, "layers": "attention"}
    view = RunView(Origin(), Choices.of(fields), lambda kind, event: None)
    view.train(model, *pictures("Qwen-Image"))
    assert len(idle(model.model)) == 2
    after = node.execute(model)
    assert "learned nothing in an earlier run: 2" in after.ui["text"][0]
    assert not torch.equal(before.result[3], after.result[3])
