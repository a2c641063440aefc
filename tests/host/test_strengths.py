"""Strengths by block and over the sampling, through LoRA2 Load and Apply, against ComfyUI's own
nodes; and that models come back as they were.
"""

import re

import comfy.lora
import folder_paths
import pytest
import safetensors.torch
import torch
from comfy_extras import nodes_hooks

import nodes as comfy_nodes
from lora2_core.layers.parts import PARTS, part_of, parts
from tests.tiers import fast

from .every_file import files
from .every_loader import stock, weights
from .flow_models import FAMILIES, build

# kinds of which the host makes nothing
IDLE = {"LoKr of a kernel", "LoRA, kohya, alpha 0", "LoRA, PEFT, alpha 0"}


@pytest.fixture
def loras(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"loras": ([str(tmp_path)], {""})})
    return tmp_path


def whole(model, seed: int = 0, rank: int = 2) -> dict:
    """A file with a pair for every layer that the host knows of a model."""
    state, generator = model.model.state_dict(), torch.Generator().manual_seed(seed)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    found = {}
    for name, key in keys.items():
        if isinstance(key, str) and name.startswith("diffusion_model.") and key in state:
            if (weight := state[key]).ndim < 2:
                continue
            up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator)
            down = torch.randn(rank, *weight.shape[1:], generator=generator)
            found[f"{name}.lora_up.weight"] = up * 0.3
            found[f"{name}.lora_down.weight"] = down / weight[0].numel() ** 0.5
    return found


def kept(loras, tensors: dict, name: str = "a.safetensors") -> str:
    safetensors.torch.save_file(tensors, loras / name)
    return name


def strengths(nodes, **fields):
    return nodes["LoRA2BlockStrengths"].execute(**fields).result[0]


def test_every_node_of_a_workflow_before_this_gives_what_it_gave(nodes, playground, loras):
    name = kept(loras, whole(playground.model))
    load, apply = nodes["LoRA2Load"].execute, nodes["LoRA2Apply"].execute
    plain, theirs = load(playground.model, name).result, stock(loras / name, playground.model)
    one = load(playground.model, name, strengths=strengths(nodes)).result
    again = apply(playground.model, plain[2], strengths=strengths(nodes, schedule="0:1")).result
    for model in (plain[0], one[0], again[0]):
        ours = weights(model)
        assert ours.keys() == theirs.keys()
        assert all((ours[k] - theirs[k]).abs().max() < 1e-6 for k in theirs)
        assert not model.hook_patches and not model.wrappers


@pytest.mark.parametrize("name", fast(["Playground", *FAMILIES], "Playground", "Flux", "Z-Image"))
def test_each_part_has_its_factor_and_no_other_layer(name, nodes, playground, loras):
    model = playground.model if name == "Playground" else build(name)
    file, prefix = kept(loras, whole(model)), "diffusion_model."
    state, full = model.model.state_dict(), weights(nodes["LoRA2Load"].execute(model, file)[0])
    blocks = parts(model.model.diffusion_model)
    for part in sorted({*blocks.values(), "other"}):
        fields = {part: 0.25, "blocks": f"{next(iter(blocks))}=-1"}
        out = nodes["LoRA2Load"].execute(model, file, strengths=strengths(nodes, **fields))
        ours = weights(out[0])
        assert ours.keys() == full.keys()
        for key, value in ours.items():
            path = key.removeprefix(prefix).removesuffix(".weight")
            factor = 0.25 if part_of(path, blocks) == part else 1
            if f"{path}.".startswith(f"{next(iter(blocks))}."):
                factor = -1
            wanted = state[key] + factor * (full[key] - state[key])
            assert (value - wanted).abs().max() < 1e-5, (part, path)
        note = next(n for n in out.ui["lora2_note"] if n[0].startswith("Strength by block"))
        assert re.fullmatch(r"(-?[\d.]+ × \d+(, )?)+", note[1])
        assert sum(int(n) for n in re.findall(r"× (\d+)", note[1])) == len(full)


@pytest.mark.parametrize("name", fast(["Playground", "Flux", "Wan 2.1"], "Wan 2.1"))
def test_changes_of_every_kind_are_scaled_as_the_host_scales_them(name, nodes, playground, loras):
    model = playground.model if name == "Playground" else build(name)
    half, seen = strengths(nodes, **dict.fromkeys(PARTS, 0.5)), set(IDLE)
    for what, _, tensors in files(model):
        if what in seen:
            continue
        seen.add(what)
        file = kept(loras, tensors)
        theirs = weights(nodes["LoRA2Load"].execute(model, file, strength_model=0.5)[0])
        ours = weights(nodes["LoRA2Load"].execute(model, file, strengths=half)[0])
        assert ours.keys() == theirs.keys(), what
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs), what


def test_keep_and_strengths_go_together(nodes, playground, loras):
    file, model = kept(loras, whole(playground.model)), playground.model
    cut = nodes["LoRA2Load"].execute(model, file, keep=0.5)[2]
    both = nodes["LoRA2Load"].execute(model, file, keep=0.5, strengths=strengths(nodes, up=0))
    state, half = model.model.state_dict(), weights(nodes["LoRA2Apply"].execute(model, cut)[0])
    assert both[2].ranks == cut.ranks
    for key, value in weights(both[0]).items():
        wanted = state[key] if ".output_blocks." in key else half[key]
        assert torch.allclose(value.float(), wanted.float(), atol=1e-6)


def sampled(model, positive, negative, steps: int = 4, cfg: float = 3.0):
    latent = {"samples": torch.zeros(1, model.model.latent_format.latent_channels, 8, 8)}
    (out,) = comfy_nodes.common_ksampler(
        model, 7, steps, cfg, "euler", "normal", positive, negative, latent
    )
    return out["samples"]


def by_comfy(nodes, name: str, frames: list, positive, negative, strength: float = 1.0):
    """The same by ComfyUI's own nodes: hooks of the file, keyframes, both conditionings."""
    (hooks,) = nodes_hooks.CreateHookLora().create_hook(name, strength, 0.0)
    group = None
    for start, factor in frames:
        (group,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(factor, start, group)
    (hooks,) = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, group)
    setter = nodes_hooks.PairConditioningSetProperties().set_properties
    return setter(positive, negative, 1.0, "default", hooks=hooks)


@pytest.mark.parametrize(
    "frames", fast([[(0, 1), (0.5, 0.3)], [(0, 0), (0.3, 1), (0.8, -0.5)], [(0, 0.5)]])
)
def test_a_schedule_samples_as_comfyuis_own_hooks_do(frames, nodes, playground, loras):
    name, model = kept(loras, whole(playground.model)), playground.model
    positive, negative = playground.positive[0], playground.positive[1]
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    theirs = sampled(model, *by_comfy(nodes, name, frames, positive, negative, 0.8))
    text = ", ".join(f"{start}:{factor}" for start, factor in frames)
    made = strengths(nodes, schedule=text)
    out = nodes["LoRA2Load"].execute(model, name, strength_model=0.8, strengths=made)
    ours, again = (sampled(out[0], positive, negative) for _ in range(2))
    plain = sampled(model, positive, negative)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert torch.equal(ours, again) and (ours - plain).abs().max() > 1e-2
    # the other way: our hooks on conditioning, as ComfyUI's nodes take them
    setter = nodes_hooks.PairConditioningSetProperties().set_properties
    conds = setter(positive, negative, 1.0, "default", hooks=out[3])
    assert (sampled(model, *conds) - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    # both at once count once: they are the same hooks
    assert torch.equal(sampled(out[0], *conds), ours)
    after = model.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not model.hook_patches and not model.patches and not model.wrappers
    assert not out[0].hook_backup and out[0].model is model.model


def test_a_schedule_of_one_is_the_plain_adapter(nodes, playground, loras):
    """Also where it is 1 for all steps that are sampled."""
    name, model = kept(loras, whole(playground.model)), playground.model
    positive, negative = playground.positive[0], playground.positive[1]
    plain = nodes["LoRA2Load"].execute(model, name)
    made = strengths(nodes, schedule="0:1, 1:0")
    out = nodes["LoRA2Load"].execute(model, name, strengths=made)
    wanted = sampled(plain[0], positive, negative)
    assert (sampled(out[0], positive, negative) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_two_schedules_and_hooks_of_others_add_up(nodes, playground, loras):
    model, positive, negative = playground.model, *playground.positive[:2]
    first, second = (kept(loras, whole(model, seed), f"{seed}.safetensors") for seed in (1, 2))
    frames = [(0, 1), (0.4, 0)]
    text = strengths(nodes, schedule="0:1, 0.4:0", up=0.5)
    both = nodes["LoRA2Load"].execute(model, first, strengths=text)[0]
    both = nodes["LoRA2Load"].execute(both, second, strengths=strengths(nodes, schedule="0:0.5"))[0]
    conds = by_comfy(nodes, second, [(0, 0.5)], positive, negative)
    one = nodes["LoRA2Load"].execute(model, first, strengths=text)[0]
    theirs = sampled(one, *conds)
    assert (sampled(both, positive, negative) - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert not torch.allclose(theirs, sampled(one, positive, negative))
    assert not torch.allclose(
        theirs, sampled(model, *by_comfy(nodes, first, frames, positive, negative))
    )


def test_what_does_not_fit_the_model_is_said(nodes, playground, loras):
    name = kept(loras, whole(playground.model))
    load = nodes["LoRA2Load"].execute
    with pytest.raises(ValueError, match="blocks has double.blocks.3, which fits no .* down 1"):
        load(playground.model, name, strengths=strengths(nodes, blocks="double_blocks.3=0.5"))
    out = load(playground.model, name, strengths=strengths(nodes, double=0.5, single=0.5))
    (note,) = (n for n in out.ui["lora2_note"] if "no blocks" in n[0])
    assert note[1] == "double, single"
    with pytest.raises(ValueError, match="strengths is 3: connect LoRA2 Block Strengths"):
        load(playground.model, name, strengths=3)
    check = nodes["LoRA2BlockStrengths"].validate_inputs
    assert check("a=1", "0:1") is True and "schedule has" in check("", "7")


def test_a_stack_is_applied_too_and_goes_on_with_this_file(nodes, playground, loras):
    """As the host's own loader does, one after another."""
    model, load = playground.model, nodes["LoRA2Load"].execute
    first, second = (kept(loras, whole(model, seed), f"{seed}.safetensors") for seed in (1, 2))
    stack = [(first, 0.5, 0.25), ("None", 1.0, 1.0)]
    one = load(model, first, strength_model=0.5)[0]
    wanted = weights(load(one, second, strength_model=-0.3)[0])
    out = load(model, second, strength_model=-0.3, strength_clip=2.0, lora_stack=stack)
    applied = nodes["LoRA2Apply"].execute(model, out[2], -0.3, lora_stack=stack)
    for ours in (weights(out[0]), weights(applied[0])):
        assert all((ours[k] - wanted[k]).abs().max() < 1e-5 for k in wanted)
    assert out[4] == [(first, 0.5, 0.25), (second, -0.3, 2.0)]
    assert load(model, first, lora_stack=out[4]).result and not model.patches
    with pytest.raises(ValueError, match="Entry 1 of lora_stack: There is no file 'gone'"):
        load(model, first, lora_stack=[("gone", 1, 1)])


def test_text_encoders_have_a_factor_of_their_own(nodes, playground, loras):
    names = {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj": None}
    keys = comfy.lora.model_lora_keys_clip(playground.clip.cond_stage_model, {})
    key = next(keys[name] for name in keys if name in names or name.startswith("lora_te"))
    name = next(n for n, k in keys.items() if k == key)
    shape = playground.clip.cond_stage_model.state_dict()[key].shape
    tensors = {f"{name}.lora_up.weight": torch.ones(shape[0], 1),
               f"{name}.lora_down.weight": torch.ones(1, shape[1])}  # fmt: skip
    file = kept(loras, tensors | whole(playground.model))
    load = nodes["LoRA2Load"].execute
    half = strengths(nodes, blocks="text=0.5")
    out = load(playground.model, file, clip=playground.clip, strengths=half)
    assert [patch[0] for patch in out[1].patcher.patches[key]] == [0.5]
    assert {patch[0] for patches in out[0].patches.values() for patch in patches} == {1.0}
