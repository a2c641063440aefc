"""LoRA2 Info on files of other programs, and what it writes beside them for LoRA-Manager."""

import hashlib
import json
import os

import folder_paths
import pytest
import safetensors.torch
import torch

from lora2_core.host import sidecars

from .every_file import KINDS, targets
from .every_loader import stock

METADATA = {"modelspec.trigger_phrase": "an owl", "ss_output_name": "Owl"}
# as LoRA-Manager needs them to read a sidecar
REQUIRED = {"file_name", "model_name", "file_path", "size", "modified", "sha256", "base_model",
            "preview_url"}  # fmt: skip


@pytest.fixture
def loras(tmp_path, monkeypatch):
    folder = tmp_path / "loras"
    (folder / "birds").mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(folder)])
    return folder


def pair(base: str, out: int = 8, columns: int = 6) -> dict:
    return {f"{base}.lora_up.weight": torch.ones(out, 2),
            f"{base}.lora_down.weight": torch.ones(2, columns)}  # fmt: skip


def written(loras, name: str = "birds/owl.v1.safetensors", **tensors) -> str:
    found = tensors or pair("lora_unet_double_blocks_0_img_attn_proj", 3072, 3072)
    safetensors.torch.save_file(found, loras / name, METADATA)
    return name


def loaded(nodes, model, name: str):
    return nodes["LoRA2Load"].execute(model, name).result[2]


def info(nodes, name: str, **fields):
    return nodes["LoRA2Info"].execute(name, **fields)


def test_a_new_sidecar_is_one_that_lora_manager_reads(nodes, loras):
    name = written(loras)
    assert not list(loras.rglob("*.json")) and info(nodes, name)
    assert not list(loras.rglob("*.json")), "on request only"
    out = info(nodes, name, sidecar=True)
    assert out.ui["text"][0].endswith("written: owl.v1.metadata.json")
    files = {"owl.v1.safetensors", "owl.v1.metadata.json"}
    assert set(os.listdir(loras / "birds")) == files
    found = json.loads((loras / "birds/owl.v1.metadata.json").read_text())
    data = (loras / name).read_bytes()
    assert found.keys() >= REQUIRED and found["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["civitai"]["trainedWords"] == ["an owl"] and found["base_model"] == "Flux.1 D"
    assert found["size"] == len(data) and found["model_name"] == "Owl"
    assert found["file_name"] == "owl.v1" and "rank 2 everywhere" in found["notes"]


def test_what_is_in_it_stays(nodes, loras):
    name, path = written(loras), loras / "birds/owl.v1.metadata.json"
    info(nodes, name, sidecar=True)
    mine = {"notes": "mine", "favorite": True, "from_civitai": True, "sha256": "another",
            "civitai": {"id": 3, "trainedWords": ["hers"]}, "x": {"new": [1, "ü"]},
            "base_model": "Unknown", "tags": [], "preview_nsfw_level": 0}  # fmt: skip
    path.write_text(json.dumps(mine), encoding="utf-8")
    info(nodes, name, sidecar=True)
    found = json.loads(path.read_text(encoding="utf-8"))
    kept = ("notes", "favorite", "from_civitai", "civitai", "x", "preview_nsfw_level")
    assert all(found[key] == mine[key] for key in kept)
    assert found["base_model"] == "Flux.1 D" and len(found["sha256"]) == 64
    path.write_text(json.dumps({"civitai": {"id": 3}}), encoding="utf-8")
    info(nodes, name, sidecar=True)
    assert json.loads(path.read_text())["civitai"] == {"id": 3, "trainedWords": ["an owl"]}


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe", b"[" * 99999, b'"x"', b""])
def test_what_is_no_sidecar_is_not_written_over(nodes, loras, content):
    name, path = written(loras), loras / "birds/owl.v1.metadata.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^'owl.v1.metadata.json' is there, but is no JSON obj"):
        info(nodes, name, sidecar=True)
    assert path.read_bytes() == content and len(os.listdir(loras / "birds")) == 2


def test_a_sidecar_is_complete_or_not_there(nodes, loras, monkeypatch):
    name, path = written(loras), loras / "birds/owl.v1.metadata.json"
    path.write_text('{"notes": "mine"}')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        info(nodes, name, sidecar=True)
    assert path.read_text() == '{"notes": "mine"}' and len(os.listdir(loras / "birds")) == 2


def test_a_link_in_its_place_leads_nowhere(nodes, loras, tmp_path):
    name, outside = written(loras), tmp_path / "secret.json"
    outside.write_text('{"notes": "secret"}')
    (loras / "birds/owl.v1.metadata.json").symlink_to(outside)
    info(nodes, name, sidecar=True)
    assert outside.read_text() == '{"notes": "secret"}'
    with pytest.raises(ValueError, match="There is no file"):
        info(nodes, "../secret.json", sidecar=True)


def test_an_adapter_without_a_file_has_none(nodes, playground, loras):
    lora = nodes["LoRA2Compress"].execute(written(loras)).result[0]
    with pytest.raises(ValueError, match="sidecar is on, but lora2 is connected"):
        nodes["LoRA2Info"].execute(None, lora, True)
    assert sidecars.BASES["Flux"] == "Flux.1 D"


def test_every_kind_of_change_is_told_with_its_norm(nodes, playground, loras):
    """The norms are those that ComfyUI's own loader gives a weight of zeros."""
    model = playground.model
    layers = [t for t in targets(model)["ComfyUI"] if len(t[2]) == 2][:1]
    for kind in ("LoHa", "LoKr", "LoKr, whole", "diff", "DoRA", "OFT", "GLoRA"):
        tensors = {}
        for name, _, shape in layers:
            tensors |= KINDS[kind](name, shape, torch.Generator().manual_seed(1))
        name = written(loras, **tensors)
        out = info(nodes, name)
        with pytest.raises(ValueError, match="no low-rank pairs, but .* LoRA2 Compress makes"):
            nodes["LoRA2RankHeatmap"].execute(loaded(nodes, model, name))
        called = kind.partition(",")[0]
        rows = out.result[1].splitlines()
        row = next(r.split("|") for r in rows if f"| {called} |" in r)
        (label,) = [line for line in out.ui["text"][0].splitlines() if "can be cut" in line]
        needs_model = kind in ("DoRA", "OFT", "GLoRA")
        assert label.endswith(
            f"by LoRA² Compress{' with model' * needs_model}: 1 {kind.split(',')[0]}"
        )
        if needs_model:
            assert row[4].strip() == ""
            continue
        (key,) = stock(loras / name, model)
        update = stock(loras / name, model)[key] - model.model.state_dict()[key].double()
        assert float(row[4]) == pytest.approx(float(update.norm()), rel=1e-3), kind


def test_a_file_that_says_a_layer_twice_is_told(nodes, loras):
    name = written(loras, **pair("lora_unet_a_to_q"), **pair("unet.a.to_q"))
    text = info(nodes, name).ui["text"][0]
    assert "named twice: lora_unet_a_to_q and unet.a.to_q" in text
    assert "names: kohya (1), diffusers (1)" in text
