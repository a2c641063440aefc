"""LoRA² Merge in the host: what the merged file does is the sum of what the files do, in any
spelling, of any kind; smaller ones have the least error; TIES and DARE are as in their papers.
"""

from pathlib import Path

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from lora2_core import LoraLayer, RankedLora, load, save
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.export import as_lora_model
from tests.clients.shapes import HOSTS, adapter
from tests.tiers import fast

from .every_file import files
from .every_loader import stock, weights

SAME = 1e-5  # of an update: what counts as the sum, after one more rounding to fp32
FORMS = {"SDXL": ("kohya", "peft"), "Flux": ("kohya", "peft"), "Wan": ("kohya", "comfy")}


@pytest.fixture(scope="module")
def node(nodes):
    return nodes["LoRA2Merge"]


@pytest.fixture
def loras(tmp_path: Path, monkeypatch) -> Path:
    """A folder that stands for the loras folder."""
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    return tmp_path


def update(patched: dict, model) -> dict[str, torch.Tensor]:
    """Weight -> what was added to it, of weights that changed."""
    state = model.model.state_dict()
    found = {key: value - state[key].double() for key, value in patched.items()}
    return {key: change for key, change in found.items() if change.any()}


def added(*parts: tuple[float, dict]) -> dict[str, torch.Tensor]:
    total: dict = {}
    for weight, changes in parts:
        for key, change in changes.items():
            total[key] = total.get(key, 0) + weight * change
    return total


def off(found: dict, wanted: dict) -> float:
    """The largest relative error of an update; infinity where another weight changes."""
    if found.keys() != wanted.keys():
        return float("inf")
    return max(float((found[k] - w).norm() / w.norm().clamp(min=1e-9)) for k, w in wanted.items())


def written(loras: Path, nodes: dict, lora: RankedLora, form: str = "kohya") -> Path:
    """Saves an adapter by LoRA2Save."""
    return loras / nodes["LoRA2Save"].execute(lora, "out/a", format=form, dtype="fp32").result[0]


def random_loras(shape: str, count: int = 3):
    model = HOSTS[shape]()
    return model, [adapter(shape, model, seed) for seed in range(count)]


@pytest.mark.parametrize("shape", fast(FORMS, "SDXL"))
def test_the_merged_file_does_what_the_files_do_together(node, nodes, loras, shape):
    """Three files in three spellings, one of them by a stack, with weights and a model."""
    model, (first, second, third) = random_loras(shape)
    diffusers = first.origin.base.diffusers
    one, two = FORMS[shape]
    save(loras / "a.safetensors", first, form=one, dtype="fp32", diffusers=diffusers)
    save(loras / "b.safetensors", second, form=two, dtype="fp32", diffusers=diffusers)
    bare = {f"{n}.lora_up.weight": y.file_tensors()[0] for n, y in third.layers.items()}
    bare |= {f"{n}.lora_down.weight": y.file_tensors()[1] for n, y in third.layers.items()}
    save_file({k: t.contiguous() for k, t in bare.items()}, loras / "c.safetensors")
    out = node.execute(
        loras={"lora_1": "a.safetensors", "lora_2": load(loras / "b.safetensors")},
        weights="1, -0.5", lora_stack=[("c.safetensors", 0.25, 0.25)], model=model,
    )  # fmt: skip
    (lora,) = out.result
    wanted = added(
        (1, update(weights(apply_lora(model, None, first, 1.0, 1.0)[0]), model)),
        (-0.5, update(weights(apply_lora(model, None, second, 1.0, 1.0)[0]), model)),
        (0.25, update(weights(apply_lora(model, None, third, 1.0, 1.0)[0]), model)),
    )
    found = update(stock(written(loras, nodes, lora), model), model)
    assert off(found, wanted) < SAME
    assert "3 LoRAs" in out.ui["text"][0] and "relative error 0.000" in out.ui["text"][0]
    assert set(lora.layers) == set(first.layers)


@pytest.mark.parametrize("shape", fast(["Flux", "SDXL"], "Flux"))
def test_without_a_model_names_of_different_programs_are_the_same_layers(node, loras, shape):
    """Kohya names and PEFT's, whose slices are parts of fused weights: layers of the real width."""
    shape = "Flux 3072" if shape == "Flux" else shape
    if shape == "SDXL":
        model, pair = wide_unet()
    else:
        model, pair = random_loras(shape, 2)
    diffusers = pair[0].origin.base.diffusers
    save(loras / "a.safetensors", pair[0], form="kohya", dtype="fp32", diffusers={})
    save(loras / "b.safetensors", pair[1], form="peft", dtype="fp32", diffusers=diffusers)
    tensors = comfy.utils.load_torch_file(str(loras / "b.safetensors"), safe_load=True)
    save_file(tensors, loras / "b.safetensors")  # without our metadata, which has the paths
    tensors = comfy.utils.load_torch_file(str(loras / "a.safetensors"), safe_load=True)
    save_file(tensors, loras / "a.safetensors")
    out = node.execute(loras={"lora_1": "a.safetensors", "lora_2": "b.safetensors"})
    (lora,) = out.result
    assert set(lora.layers) == set(pair[0].layers)
    for name, layer in list(lora.layers.items())[:4]:
        wanted = pair[0].layers[name].delta() + pair[1].layers[name].delta()
        assert (layer.delta() - wanted).norm() < SAME * wanted.norm()


def wide_unet():
    """Adapters of four layers of SDXL, in its real size."""
    g = torch.Generator().manual_seed(0)
    block = "diffusion_model.input_blocks.4.1.transformer_blocks.1"
    sizes = {"attn1.to_q": (640, 640), "attn2.to_k": (640, 2048), "ff.net.2": (640, 2560)}
    loras = []
    from lora2_core.adapter.origin import BaseModel, Origin
    from lora2_core.host.unet_names import UNETS, names_in

    known = names_in(UNETS[0])
    base = BaseModel(diffusers=known.diffusers, names=known.names)
    for _ in range(2):
        layers = {
            f"{block}.{n}": LoraLayer(
                torch.randn(a, 4, generator=g), torch.randn(4, b, generator=g)
            )
            for n, (a, b) in sizes.items()
        }
        loras.append(RankedLora(layers, Origin(base=base)))
    return None, loras


KINDS = ["LoHa", "LoKr", "diff", "LoCon with mid weights", "DoRA", "norm", "pair and bias"]


@pytest.mark.parametrize("kind", fast(KINDS, "LoKr", "norm"))
def test_every_kind_is_added(node, nodes, playground, loras, kind):
    """With the base model connected, beside a plain pair of the same layers, and doubled."""
    model = playground.model
    tensors = next(t for what, spelling, t in files(model) if what == kind)
    plain = next(t for what, spelling, t in files(model, seed=1) if what == "LoRA, kohya")
    save_file(tensors, loras / "a.safetensors")
    save_file(plain, loras / "b.safetensors")
    each = [update(stock(loras / f"{n}.safetensors", model), model) for n in "ab"]
    given = {"lora_1": "a.safetensors", "lora_2": "b.safetensors"}
    (lora,) = node.execute(loras=given, weights="2, 1", model=model).result
    found = update(weights(apply_lora(model, None, lora, 1.0, 1.0)[0]), model)
    assert off(found, added((2, each[0]), (1, each[1]))) < 1e-4


def test_a_cut_merge_has_the_least_error_for_its_size(node):
    model, loras = random_loras("SDXL", 2)
    given = {"lora_1": loras[0], "lora_2": loras[1]}
    (whole,) = node.execute(loras=given).result
    budget = whole.megabytes() / 3
    out = node.execute(loras=given, budget_mb=budget)
    (small,) = out.result
    best = whole.within(budget * 1e6 / 2)
    assert small.ranks == best.ranks and 0.95 * budget < small.megabytes() <= budget
    lost = sum(
        float((whole.layers[n].delta() - y.delta()).square().sum()) for n, y in small.layers.items()
    )
    error = (lost / sum(float(e.sum()) for e in whole.energies())) ** 0.5
    said = small.origin.run.settings["merged"]
    assert said["error"] == pytest.approx(error, abs=1e-4) and f"{error:.3f}" in out.ui["text"][0]
    (tolerant,) = node.execute(loras=given, tolerance=0.3).result
    assert 0.25 < tolerant.origin.run.settings["merged"]["error"] <= 0.3


def test_ties_and_dare_are_those_of_their_papers(node):
    g = torch.Generator().manual_seed(0)
    dense = [torch.randn(24, 20, generator=g) for _ in range(3)]
    given = {}
    for number, update in enumerate(dense, 1):
        u, s, v = torch.linalg.svd(update, full_matrices=False)
        given[f"lora_{number}"] = RankedLora({"diffusion_model.a": LoraLayer(u * s, v)})
    out = node.execute(loras=given, weights="1, 0.5, 2", method="ties", density=0.25)
    scaled = [w * update for w, update in zip((1, 0.5, 2), dense, strict=True)]
    kept = [torch.where(u.abs() >= u.abs().flatten().topk(120).values[-1], u, 0.0) for u in scaled]
    sign = sum(kept).sign()
    agrees = [(u.sign() == sign) & (u != 0) for u in kept]
    wanted = sum(torch.where(a, u, 0.0) for a, u in zip(agrees, kept, strict=True))
    wanted = wanted / sum(a.int() for a in agrees).clamp(min=1)
    got = out.result[0].layers["diffusion_model.a"].delta()
    assert (got - wanted).norm() < 1e-4 * wanted.norm()
    assert "25.0% of the entries kept" in out.ui["text"][0]

    def dare(seed: int) -> torch.Tensor:
        lora = node.execute(loras=given, method="dare", density=0.5, seed=seed).result[0]
        return lora.layers["diffusion_model.a"].delta()

    assert torch.equal(dare(1), dare(1)) and not torch.allclose(dare(1), dare(2))
    mean = sum(dare(seed) for seed in range(200)) / 200
    assert (mean - sum(dense)).norm() < 0.15 * sum(dense).norm()
    (one,) = node.execute(loras={"lora_1": given["lora_1"]}, method="dare", density=0.5).result
    ratio = one.layers["diffusion_model.a"].delta() / dense[0]
    assert ((ratio.abs() < 1e-3) | ((ratio - 2).abs() < 1e-2)).float().mean() > 0.98


def test_blocks_have_weights_of_their_own(node):
    model, (first, second) = random_loras("SDXL", 2)
    text = "down=0, mid=0.5, attn2=2\n2: up=0"
    (lora,) = node.execute(loras={"lora_1": first, "lora_2": second}, blocks=text).result
    seen = set()
    for name, layer in lora.layers.items():
        side = name.split(".")[1]
        factor = {"input_blocks": 0.0, "middle_block": 0.5}.get(side, 1.0)
        inside = ".transformer_blocks." in name or side in ("output_blocks", "middle_block")
        if not inside or not any(b in name for b in ("transformer_blocks",)):
            continue
        factor = 2.0 if "attn2" in name else factor
        other = 0.0 if side == "output_blocks" else factor
        wanted = first.layers[name].delta() * factor + second.layers[name].delta() * other
        assert (layer.delta() - wanted).norm() <= 1e-5 * (1 + wanted.norm()), name
        seen.add((side, factor, other))
    assert len(seen) > 4


def test_faults(node, nodes, playground, loras):
    g = torch.Generator().manual_seed(0)

    def lora(rows: int, name: str = "diffusion_model.blocks.0.a") -> RankedLora:
        return RankedLora(
            {name: LoraLayer(torch.randn(rows, 2, generator=g), torch.randn(2, 6, generator=g))}
        )

    a, b = lora(8), lora(9)
    with pytest.raises(ValueError, match="no LoRA to merge: connect lora_1"):
        node.execute()
    with pytest.raises(ValueError, match="8 x 6 in lora_1, and of 9 x 6 in lora_2: they belong to"):
        node.execute(loras={"lora_1": a, "lora_2": b})
    out = node.execute(loras={"lora_1": a, "lora_2": lora(8, "diffusion_model.blocks.1.a")})
    assert "may be for different models" in out.ui["text"][0]
    with pytest.raises(ValueError, match="weights has 'x': give a number"):
        node.execute(loras={"lora_1": a}, weights="x")
    with pytest.raises(ValueError, match="3 numbers, but the last LoRA is lora_2"):
        node.execute(loras={"lora_1": a, "lora_2": a}, weights="1,1,1")
    with pytest.raises(ValueError, match="blocks has up.9, which fits no layer: there are bl"):
        node.execute(loras={"lora_1": a}, blocks="up.9=1")
    with pytest.raises(ValueError, match="update of all 1 layers is zero"):
        node.execute(loras={"lora_1": a, "lora_2": a}, weights="1,-1")
    with pytest.raises(ValueError, match="lora_1 is 3: connect a LoRA2 node"):
        node.execute(loras={"lora_1": 3})
    with pytest.raises(ValueError, match="Entry 1 of lora_stack: There is no file|loras folder is"):
        node.execute(lora_stack=[("../secret.safetensors", 1.0, 1.0)])
    with pytest.raises(ValueError, match="Entry 1 of lora_stack has the strength nan"):
        node.execute(lora_stack=[("a", float("nan"), 1.0)])
    with pytest.raises(ValueError, match="lora_stack is 3: connect"):
        node.execute(lora_stack=3)
    with pytest.raises(ValueError, match="budget_mb is 1e-05, too small for one rank"):
        node.execute(loras={"lora_1": a}, budget_mb=1e-5)
    tensors = next(t for what, spelling, t in files(playground.model) if what == "OFT")
    save_file(tensors, loras / "oft.safetensors")
    with pytest.raises(ValueError, match="oft.safetensors: layer .* OFT, which can't be scaled"):
        node.execute(loras={"lora_1": "oft.safetensors"}, weights="0.5")


def test_an_adapter_of_the_hosts_own_type_and_one_of_a_model(node, playground):
    """The host's LORA_MODEL, and an adapter that was loaded with its model: one name a layer."""
    model = playground.model
    tensors = next(t for what, spelling, t in files(model) if what == "LoRA, kohya")
    from lora2_core.host.export import from_lora_model

    loaded = adopt(from_lora_model(tensors), model)
    (lora,) = node.execute(loras={"lora_1": tensors, "lora_2": loaded}, model=model).result
    stock_model, _ = comfy.sd.load_lora_for_models(model, None, tensors, 2.0, 0.0)
    found = update(weights(apply_lora(model, None, lora, 1.0, 1.0)[0]), model)
    assert off(found, update(weights(stock_model), model)) < SAME
    assert as_lora_model(lora)
