"""LoRA² Extract in the host: the base model with the extracted adapter is the tuned model, from
models in nodes and from files that are read layer by layer, at any size, with its error known.
"""

import re
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file, save_file

from lora2_core import LoraLayer, RankedLora
from lora2_core.host.apply import apply_lora
from tests.clients.shapes import HOSTS, adapter
from tests.tiers import fast

from .every_loader import stock, weights
from .test_merge import off, update

PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def node(nodes):
    return nodes["LoRA2Extract"]


@pytest.fixture(scope="module")
def sdxl():
    """A small SDXL and an adapter of all its layers."""
    with torch.inference_mode():
        model = HOSTS["SDXL"]()
        return model, adapter("SDXL", model)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch) -> Path:
    """Folders that stand for those of models and LoRAs."""
    for kind in ("checkpoints", "diffusion_models", "loras"):
        (tmp_path / kind).mkdir()
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    return tmp_path


def patched(model, lora: RankedLora) -> ModelPatcher:
    return apply_lora(model, None, lora, 1.0, 1.0)[0]


def state_of(model) -> dict[str, torch.Tensor]:
    return {
        PREFIX + k.removeprefix("diffusion_model."): v.clone().contiguous()
        for k, v in model.model.state_dict().items()
        if k.startswith("diffusion_model.")
    }


@pytest.mark.parametrize("shape", fast(["SDXL", "Flux", "Wan"], "Flux"))
def test_a_model_with_patches_and_its_base_give_back_the_patches(node, nodes, folders, shape):
    model = HOSTS[shape]()
    lora = adapter(shape, model)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    tuned = patched(model, lora)
    out = node.execute(model=tuned, base=model, budget_mb=0.0, tolerance=1e-3)
    found, image = out.result
    assert set(found.layers) == set(lora.layers) and not found.others
    assert found.ranks == lora.ranks, "the difference has the ranks of the adapter"
    assert all(torch.equal(before[k], v) for k, v in model.model.state_dict().items())
    saved = nodes["LoRA2Save"].execute(found, "out/a", dtype="fp32").result[0]
    wanted = update(weights(tuned), model)
    assert off(update(stock(folders / "loras" / saved, model), model), wanted) < 1e-3
    assert image.shape[-1] == 3 and "differ by rounding alone" in out.ui["text"][0]


def test_two_files_give_the_difference_with_its_error(node, sdxl, folders):
    """A checkpoint and a file of the diffusion model alone, whose names begin otherwise."""
    model, lora = sdxl
    state = state_of(model)
    tuned = dict(state)
    g = torch.Generator().manual_seed(1)
    for name, layer in lora.layers.items():
        key = PREFIX + name.removeprefix("diffusion_model.") + ".weight"
        tuned[key] = state[key] + 0.1 * layer.delta()
        tuned[key] += 0.002 * torch.randn(state[key].shape, generator=g)
    norm = next(k for k in state if state[k].ndim == 1 and k.endswith("norm1.weight"))
    tuned[norm] = state[norm] + 0.25
    tuned["first_stage_model.encoder.weight"] = torch.randn(4, 4, generator=g)
    save_file(tuned, folders / "checkpoints" / "tuned.safetensors")
    bare = {k.removeprefix(PREFIX): v for k, v in state.items()}
    save_file(bare, folders / "diffusion_models" / "base.safetensors")
    files = {"model_file": "checkpoints/tuned.safetensors",
             "base_file": "diffusion_models/base.safetensors"}  # fmt: skip
    changes = {n: tuned[k] - state[k] for n in lora.layers
               for k in [PREFIX + n.removeprefix("diffusion_model.") + ".weight"]}  # fmt: skip
    total = sum(float(c.square().sum()) for c in changes.values())
    errors = []
    for budget in (0.1, 0.4):
        out = node.execute(budget_mb=budget, rest=True, **files)
        found = out.result[0]
        assert found.megabytes() <= budget
        lost = sum(float((changes[n] - y.delta()).square().sum()) for n, y in found.layers.items())
        lost += sum(float(c.square().sum()) for n, c in changes.items() if n not in found.layers)
        error = (lost / total) ** 0.5
        assert found.origin.run.settings["extracted"]["error"] == pytest.approx(error, rel=1e-3)
        assert re.search(rf"relative error {error:.3f}", out.ui["text"][0])
        best = sorted(
            (
                (float(s) ** 2 / y.cost, float(s) ** 2, y.cost)
                for n, y in found.layers.items()
                for s in torch.linalg.svdvals(changes[n].flatten(1).double())
            ),
            reverse=True,
        )
        room, kept = (budget * 1e6 - found.other_bytes) / 2, 0.0
        for _, energy, cost in best:
            if cost > room:
                break
            room, kept = room - cost, kept + energy
        assert error <= 1.01 * (max(0.0, total - kept) / total) ** 0.5 + 1e-6
        errors.append(error)
        layer = "diffusion_model." + norm.removeprefix(PREFIX).removesuffix(".weight")
        assert torch.allclose(found.others[layer].tensors[".diff"].float(), torch.tensor(0.25))
    assert errors[1] < errors[0]
    only = node.execute(budget_mb=1.0, layers=r"attn2\.to_k", **files).result[0]
    assert only.layers and all(n.endswith("attn2.to_k") for n in only.layers)


def test_what_rounding_alone_changed_has_no_pair(node, sdxl, folders):
    model, lora = sdxl
    state = {k: v.half() for k, v in state_of(model).items()}
    tuned = {k: v.bfloat16() for k, v in state.items()}
    save_file(state, folders / "checkpoints" / "base.safetensors")
    save_file(tuned, folders / "checkpoints" / "same.safetensors")
    files = {"base_file": "checkpoints/base.safetensors",
             "model_file": "checkpoints/same.safetensors"}  # fmt: skip
    with pytest.raises(ValueError, match="layers of both models are the same, apart from rounding"):
        node.execute(**files)
    name, layer = next(iter(lora.layers.items()))
    key = PREFIX + name.removeprefix("diffusion_model.") + ".weight"
    tuned[key] = (state[key].float() + layer.delta()).bfloat16()
    save_file(tuned, folders / "checkpoints" / "same.safetensors")
    assert list(node.execute(**files).result[0].layers) == [name]


def test_text_encoders_of_a_checkpoint_have_the_names_of_loaders(node, folders):
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    block = "conditioner.embedders.1.model.transformer.resblocks.3."
    first = "conditioner.embedders.0.transformer.text_model."
    base = {f"{PREFIX}input_blocks.{i}.0.weight": draw(8, 8) for i in range(8)}
    base |= {
        f"{block}attn.in_proj_weight": draw(12, 4), f"{block}mlp.c_fc.weight": draw(16, 4),
        f"{first}encoder.layers.0.mlp.fc1.weight": draw(8, 4),
        f"{first}embeddings.token_embedding.weight": draw(9, 4),
    }  # fmt: skip
    tuned = {k: v + draw(*v.shape) for k, v in base.items()}
    save_file(base, folders / "checkpoints" / "a.safetensors")
    save_file(tuned, folders / "checkpoints" / "b.safetensors")
    files = {"base_file": "checkpoints/a.safetensors", "model_file": "checkpoints/b.safetensors"}
    lora = node.execute(budget_mb=1.0, **files).result[0]
    text = {n for n in lora.layers if not n.startswith("diffusion_model.")}
    before = "lora_te2_text_model_encoder_layers_3_"
    attention = {f"{before}self_attn_{letter}_proj" for letter in "qkv"}
    assert text == attention | {
        f"{before}mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    }  # fmt: skip
    wanted = (tuned[f"{block}attn.in_proj_weight"] - base[f"{block}attn.in_proj_weight"])[4:8]
    assert torch.allclose(lora.layers[f"{before}self_attn_k_proj"].delta(), wanted, atol=1e-5)


def test_weights_in_eight_bits_have_their_scale(node, folders):
    g = torch.Generator().manual_seed(0)
    base = {f"{PREFIX}blocks.{i}.a.weight": torch.randn(8, 8, generator=g) for i in range(8)}
    scaled = {k: (v / 4).to(torch.float8_e4m3fn) for k, v in base.items()}
    scaled |= {k.replace(".weight", ".scale_weight"): torch.tensor(4.0) for k in base}
    tuned = {k: v + torch.randn(8, 8, generator=g) for k, v in base.items()}
    save_file(scaled, folders / "checkpoints" / "a.safetensors")
    save_file(tuned, folders / "checkpoints" / "b.safetensors")
    files = {"base_file": "checkpoints/a.safetensors", "model_file": "checkpoints/b.safetensors"}
    lora = node.execute(budget_mb=1.0, **files).result[0]
    key = next(iter(base))
    wanted = tuned[key] - scaled[key].float() * 4
    name = key.replace(PREFIX, "diffusion_model.").removesuffix(".weight")
    assert torch.allclose(lora.layers[name].delta(), wanted, atol=1e-4)
    scaled[key] = torch.zeros(8, 4, dtype=torch.uint8)
    save_file(scaled, folders / "checkpoints" / "a.safetensors")
    with pytest.raises(ValueError, match="different architectures: layer .* is 8 x 8 in one and 8"):
        node.execute(budget_mb=1.0, **files)
    scaled[key] = torch.zeros(8, 8, dtype=torch.uint8)
    save_file(scaled, folders / "checkpoints" / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors: .* is quantised \(torch.uint8\), which"):
        node.execute(budget_mb=1.0, **files)


def test_faults(node, sdxl, folders, monkeypatch):
    model, lora = sdxl
    with pytest.raises(ValueError, match="model is not connected, and no file is chosen"):
        node.execute(base=model)
    with pytest.raises(ValueError, match="budget_mb and tolerance are both 0"):
        node.execute(model=model, base=model, budget_mb=0.0)
    with pytest.raises(ValueError, match="There is no file 'checkpoints/../x.safetensors'"):
        node.execute(base=model, model_file="checkpoints/../x.safetensors")
    with pytest.raises(ValueError, match="There is no file 'loras/x.safetensors' in the folders"):
        node.execute(base=model, model_file="loras/x.safetensors")
    flux = HOSTS["Flux"]()
    with pytest.raises(ValueError, match="model and base are of different architectures: 0 of"):
        node.execute(model=flux, base=model)
    with pytest.raises(ValueError, match="layers 'nothing' matches no layer: one is named"):
        node.execute(model=patched(model, lora), base=model, layers="nothing")
    with pytest.raises(ValueError, match="layers is not a regular expression"):
        node.execute(model=model, base=model, layers="(")
    name, layer = next(iter(lora.layers.items()))
    bad = LoraLayer(layer.up * float("inf"), layer.down, layer.kernel)
    with pytest.raises(ValueError, match=f"Layer {name} has values that are not finite"):
        node.execute(model=patched(model, RankedLora({name: bad})), base=model)
    (folders / "checkpoints" / "cut.safetensors").write_bytes(b"\x10" + b"\0" * 9)
    with pytest.raises(ValueError, match="cut.safetensors is no safetensors file or is cut off"):
        node.execute(base=model, model_file="checkpoints/cut.safetensors")
    import comfy.model_management as management

    monkeypatch.setattr(management, "interrupt_processing", True)
    with pytest.raises(management.InterruptProcessingException):
        node.execute(model=patched(model, lora), base=model)
    management.interrupt_current_processing(False)


def test_a_file_is_read_one_tensor_at_a_time(tmp_path):
    from lora2_core.files.model_file import ModelFile

    tensors = {"a.weight": torch.randn(3, 4), "b.bias": torch.randn(5).half()}
    save_file(tensors, tmp_path / "a.safetensors")
    with ModelFile(tmp_path / "a.safetensors") as file:
        assert torch.equal(file.weight("a.weight"), tensors["a.weight"])
        assert torch.equal(file.weight("b.bias"), tensors["b.bias"])
        assert file.shape("a.weight") == (3, 4)
    assert file.file.closed
    assert load_file(tmp_path / "a.safetensors").keys() == tensors.keys()
