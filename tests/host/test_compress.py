"""LoRA² Compress on real adapters: the same model output, smaller, from every source."""

from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from lora2_core import RankSettings, TrainSettings, load, save
from lora2_core.host.apply import apply_lora
from lora2_core.host.export import as_lora_model
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import TargetSettings

from .every_file import files
from .every_loader import stock, weights

LAYERS = r"attn[12]\.to_(q|k|v|out\.0)$|in_layers\.2$|ff\.net\.2$"


@pytest.fixture(scope="module")
def node(nodes):
    return nodes["LoRA2Compress"]


@pytest.fixture(scope="module")
def trained(playground):
    """A plain LoRA of attention, feed-forward and convolution layers."""
    settings = RankSettings(mode="fixed", target_rank=16)
    run = Choices(
        settings, TrainSettings(12, 1e-2), batch_size=2, target=TargetSettings(targets=LAYERS)
    )
    with torch.inference_mode():
        return train_on(
            playground.model, playground.latents, playground.positive, run, lambda step: None
        ).lora


@pytest.fixture
def loras(tmp_path: Path, monkeypatch) -> Path:
    """A folder that stands for the loras folder."""
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize("form", ["kohya", "peft", "uniform"])
def test_a_file_of_any_form_gives_nearly_the_same_output(node, playground, trained, loras, form):
    save(
        loras / "a.safetensors",
        trained,
        form=form,
        dtype="fp32",
        diffusers=trained.origin.base.diffusers,
    )
    without_ours = load(loras / "a.safetensors")
    base = playground.forward()
    full = playground.forward(apply_lora(playground.model, None, without_ours, 1.0, 1.0)[0])
    off = []
    for tolerance in (0.3, 0.03, 0.003):
        out = node.execute("a.safetensors", 0.0, tolerance)
        (lora,) = out.result
        assert "MB, relative error 0" in out.ui["text"][0]
        found = playground.forward(apply_lora(playground.model, None, lora, 1.0, 1.0)[0])
        off.append(float((found - full).norm() / (full - base).norm()))
    assert off[0] > off[1] > off[2] and off[2] < 0.01


def test_a_size_is_kept(node, trained, loras):
    save(loras / "a.safetensors", trained)
    half = trained.megabytes() / 2
    (lora,) = node.execute("a.safetensors", half, 0.0).result
    assert 0.97 * half < lora.megabytes() <= half
    assert len(set(lora.ranks.values())) > 1


def test_the_hosts_own_type_goes_before_the_file(node, playground, trained):
    tensors = as_lora_model(trained)
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    (lora,) = node.execute("gone.safetensors", 0.0, 0.001, tensors).result
    assert all(torch.equal(tensors[key], tensor) for key, tensor in before.items())
    stock, _ = comfy.sd.load_lora_for_models(playground.model, None, tensors, 1.0, 0.0)
    ours, _ = apply_lora(playground.model, None, lora, 1.0, 1.0)
    stock, ours, base = map(playground.forward, (stock, ours, playground.model))
    assert (stock - ours).norm() < 0.01 * (stock - base).norm()


def test_every_key_of_a_foreign_diffusers_file_loads_in_the_stock_loader(
    node, playground, trained, loras
):
    """PEFT names that no metadata explains: what we save of them, the host reads."""
    save(
        loras / "a.safetensors",
        trained,
        form="peft",
        dtype="fp32",
        diffusers=trained.origin.base.diffusers,
    )
    tensors = comfy.utils.load_torch_file(str(loras / "a.safetensors"), safe_load=True)
    save_file(tensors, loras / "foreign.safetensors")
    (lora,) = node.execute("foreign.safetensors", 0.0, 0.05).result
    assert all(name.startswith("unet.") for name in lora.layers)
    ours = playground.forward(apply_lora(playground.model, None, lora, 1.0, 1.0)[0])
    save(loras / "out.safetensors", lora, dtype="fp32")
    tensors = comfy.utils.load_torch_file(str(loras / "out.safetensors"), safe_load=True)
    stock, _ = comfy.sd.load_lora_for_models(playground.model, None, tensors, 1.0, 0.0)
    assert len(stock.patches) == sum(rank > 0 for rank in lora.ranks.values())
    assert (playground.forward(stock) - ours).abs().max() <= 1e-5  # one more rounding, of alpha


def test_faults(node, trained, loras):
    with pytest.raises(ValueError, match="no file 'gone.safetensors' in the loras folder: choose"):
        node.execute("gone.safetensors")
    with pytest.raises(ValueError, match="loras folder is empty: train|no file None in"):
        node.execute()
    with pytest.raises(ValueError, match="both 0: give a size in MB"):
        node.execute(None, 0.0, 0.0, as_lora_model(trained))
    with pytest.raises(ValueError, match="lora is no LORA_MODEL: connect"):
        node.execute(lora=trained)
    with pytest.raises(ValueError, match=r"1 changes \(bias\) can't be cut without the base model"):
        node.execute(lora={"x.diff_b": torch.zeros(3)})
    with pytest.raises(ValueError, match="^lora: x belongs to no LoRA layer: this is not a LoRA"):
        node.execute(lora={"x": torch.zeros(3)})


def test_the_form_notices_a_changed_file(node, loras):
    (loras / "a.safetensors").write_text("one")
    state = node.fingerprint_inputs(lora_name="a.safetensors", budget_mb=0.0, tolerance=0.1)
    import os

    os.utime(loras / "a.safetensors", ns=(1, 1))
    assert node.fingerprint_inputs(lora_name="a.safetensors") != state
    assert node.fingerprint_inputs() == node.fingerprint_inputs(lora_name=None)


@pytest.mark.parametrize(
    "kind", ["DoRA", "OFT", "GLoRA", "LoHa", "LoKr", "diff", "LoCon with mid weights"]
)
def test_every_kind_becomes_a_smaller_one(node, playground, loras, kind):
    """With the base model connected, within the error that was asked for."""
    tensors = next(t for what, spelling, t in files(playground.model) if what == kind)
    save_file(tensors, loras / "a.safetensors")
    (lora,) = node.execute("a.safetensors", 0.0, 0.05, model=playground.model).result
    assert all(t.ndim < 2 for change in lora.others.values() for t in change.tensors.values())
    state = playground.model.model.state_dict()
    source = stock(loras / "a.safetensors", playground.model)
    ours = weights(apply_lora(playground.model, None, lora, 1.0, 1.0)[0])
    lost = sum(
        float((ours[k] - wanted).square().sum()) for k, wanted in source.items() if k in ours
    )
    total = sum(float((wanted - state[k].double()).square().sum()) for k, wanted in source.items())
    assert ours.keys() == source.keys() and (lost / total) ** 0.5 <= 0.051
    assert lora.origin.run.settings["compressed"]["error"] <= 0.05


def test_importance_decides_which_positions_go_first(node, playground, trained, loras):
    """The error stays that of the update, and is least by energy; relative goes by base weights."""
    half, found = trained.megabytes() / 3, {}
    save(loras / "a.safetensors", trained)
    with pytest.raises(ValueError, match="importance is relative, which needs the base weights"):
        node.execute("a.safetensors", half, 0.0, importance="relative")
    for kind in ("energy", "relative"):
        (lora,) = node.execute(
            "a.safetensors", half, 0.0, model=playground.model, importance=kind
        ).result
        found[kind] = lora
    errors = {k: y.origin.run.settings["compressed"]["error"] for k, y in found.items()}
    assert errors["energy"] < errors["relative"] < 1
    state = playground.model.model.state_dict()

    def relative(lora) -> float:
        parts = ((trained.layers[n], y, state[f"{n}.weight"]) for n, y in lora.layers.items())
        return sum(
            float((whole.delta() - cut.delta()).square().sum() / weight.square().sum())
            for whole, cut, weight in parts
        )

    assert relative(found["relative"]) < relative(found["energy"])
    plain = {k: t for k, t in as_lora_model(trained).items()}
    with pytest.raises(ValueError, match="importance is loss, but the LoRA doesn't store how"):
        node.execute(lora=plain, importance="loss")


def test_a_folder_at_once_has_a_row_for_every_file(nodes, trained, loras, monkeypatch):
    (loras / "in").mkdir()
    save(loras / "in" / "a.safetensors", trained)
    save(loras / "in" / "b c.safetensors", trained, form="peft")
    (loras / "in" / "damaged.safetensors").write_bytes(b"nothing of a LoRA")
    names = [f"in/{path.name}" for path in sorted((loras / "in").iterdir())]
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda kind: [*names, "other.pt"])
    out = nodes["LoRA2CompressFolder"].execute("in", "small", 0.0, 0.2)
    lines = out.result[0].splitlines()[2:]
    assert len(lines) == 3
    assert "damaged.safetensors is no safetensors file" in lines[2] and "b c" in lines[1]
    assert out.ui["text"][0].startswith("2 of 3 files")
    for name in ("a", "b c"):
        (written,) = (loras / "small" / "in").glob(f"{name}_00001_.safetensors")
        assert load(written).parameters < trained.parameters
    with pytest.raises(ValueError, match="no .safetensors files in 'none' of the loras folder"):
        nodes["LoRA2CompressFolder"].execute("none", "small")
    with pytest.raises(ValueError, match="leads out of the loras folder"):
        nodes["LoRA2CompressFolder"].execute("in", "../x")
    assert nodes["LoRA2CompressFolder"].validate_inputs(into="../x") is not True


def test_saved_files_go_on_as_a_stack(nodes, trained, loras):
    save(loras / "a.safetensors", trained)
    before = [("a.safetensors", 0.5, 0.25), ("None", 1.0, 1.0)]
    name, stack = nodes["LoRA2Save"].execute(trained, "out/b", lora_stack=before).result
    assert stack == [("a.safetensors", 0.5, 0.25), (name, 1.0, 1.0)]
