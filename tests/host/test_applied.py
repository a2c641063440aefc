"""What Apply, Load and Save say in the node: layers that are not used, a size that leaves nothing,
and the file that was written.
"""

import os
from dataclasses import replace
from pathlib import Path

import folder_paths
import pytest

from lora2_core.adapter.lora import RankedLora
from lora2_core.host import store
from tests.reliability.doors import told
from tests.toys import random_lora

BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"
HERE = {f"{BLOCK}.to_q": (96, 96, 2, None), f"{BLOCK}.to_k": (96, 96, 2, None)}
ELSEWHERE = {"diffusion_model.no_such_block.to_q": (4, 4, 1, None)}
TEXT = {"lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (8, 8, 1, None)}


def adapter(shapes: dict) -> RankedLora:
    return random_lora(shapes).rotated()


def test_layers_that_are_not_used_are_told_in_the_node(nodes, playground):
    def notes(shapes: dict) -> list:
        out = nodes["LoRA2Apply"].execute(playground.model, adapter(shapes))
        return out.ui.get("lora2_note", [])

    assert notes(HERE) == []
    ((text, *values),) = notes(HERE | ELSEWHERE)
    assert "not in this model" in text and values == [1, 3, *ELSEWHERE]
    assert notes(HERE | TEXT) == ["It has layers for the text encoder: connect clip to use them."]
    assert len(notes(HERE | TEXT | ELSEWHERE)) == 2


def test_a_keep_that_leaves_nothing_names_the_least_that_does_not(nodes, playground):
    apply, lora = nodes["LoRA2Apply"].execute, adapter(HERE)
    with pytest.raises(ValueError, match="keep is 0.01, which leaves no rank .* to 0.25 or more"):
        apply(playground.model, lora, keep=0.01)
    assert apply(playground.model, lora, keep=0.25).result[0].patches
    with pytest.raises(ValueError, match="keep is 0.24"):
        apply(playground.model, lora, keep=0.24)


def test_an_adapter_that_is_empty_in_this_model_is_no_adapter(nodes, playground):
    lora = adapter(HERE | ELSEWHERE)
    cut = {n: y if n in ELSEWHERE else y.first(0) for n, y in lora.layers.items()}
    with pytest.raises(ValueError, match="rank 0 in every layer of this model"):
        nodes["LoRA2Apply"].execute(playground.model, replace(lora, layers=cut))


@pytest.fixture
def loras(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / "loras")])
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "loras"


def test_whatever_is_wrong_with_a_file_names_it(nodes, playground, loras):
    save, load = nodes["LoRA2Save"].execute, nodes["LoRA2Load"].execute
    other, wrong = adapter(ELSEWHERE), adapter({f"{BLOCK}.to_q": (4, 4, 1, None)})
    for lora, said in ((other, "None of the adapter's 1 layers"), (wrong, "Layer diffusion_model")):
        name, _ = save(lora, "a/other").result
        with pytest.raises(ValueError, match=f"^{name}: {said}"):
            load(playground.model, name)
        (start,) = nodes["LoRA2StartOptions"].execute(lora_name=name).result
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            nodes["LoRA2Apply"].execute(playground.model, start["start_from"])
    name, _ = save(adapter(HERE), "a/good").result
    with pytest.raises(ValueError, match=f"^{name}: keep is 0.01"):
        load(playground.model, name, keep=0.01)


def saved(nodes, prefix: str, **options) -> dict:
    return nodes["LoRA2Save"].execute(told(), prefix, **options).ui["lora2_saved"][0]


def test_programs_are_told_what_was_saved(nodes, loras, tmp_path):
    for prefix, subfolder in (("owl", ""), ("a/b/owl", "a/b"), (".a/owl", ".a")):
        entry = saved(nodes, prefix, dtype="fp32")
        assert entry["subfolder"] == subfolder and entry["type"] == "temp"
        offered = tmp_path / "temp" / subfolder / entry["filename"]
        file = loras / entry["lora_name"]
        assert os.path.samefile(offered, file) and entry["megabytes"] == file.stat().st_size / 1e6
        assert entry["ranks"] == told().ranks and entry["mean_rank"] == told().mean_rank


def test_the_ranks_are_those_of_the_file(nodes, loras):
    save, lora = nodes["LoRA2Save"].execute, adapter(HERE)
    (uncut,) = save(lora, "owl").ui["lora2_saved"]
    (entry,) = save(lora, "owl", max_mb=uncut["megabytes"] - 3e-4).ui["lora2_saved"]
    assert uncut["ranks"] == lora.ranks
    assert 0 < sum(entry["ranks"].values()) < sum(lora.ranks.values())


def test_a_name_that_was_there_before_shows_the_new_file(nodes, loras):
    first = saved(nodes, "owl")
    (loras / first["lora_name"]).unlink()
    again = saved(nodes, "owl", dtype="fp32")
    temp = Path(folder_paths.temp_directory)
    assert again["filename"] == first["filename"]
    assert os.path.samefile(temp / again["filename"], loras / again["lora_name"])


def test_without_hard_links_small_files_are_copied_and_large_ones_left_out(
    nodes, loras, monkeypatch
):
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    entry = saved(nodes, "owl")
    copy = Path(folder_paths.temp_directory) / entry["filename"]
    assert copy.read_bytes() == (loras / entry["lora_name"]).read_bytes()
    monkeypatch.setattr(store, "COPIED", 0)
    entry = saved(nodes, "owl")
    assert (loras / entry["lora_name"]).is_file() and "filename" not in entry
