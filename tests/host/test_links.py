"""Links that stand in the host's folders are followed, as the host's own nodes do; files that a
link leads to are never written.
"""

from pathlib import Path

import folder_paths
import pytest
from PIL import Image

from lora2_core.adapter.lora import RankedLora
from lora2_core.host.output import numbered_files
from lora2_core.host.store import lora_path, save_under_loras
from tests.toys import random_lora

SMALL = {"diffusion_model.out.2": (4, 72, 2, (3, 3))}


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Path:
    """Another disk, to which a link `other` leads from each of the host's folders."""
    disk = tmp_path / "disk"
    for kind in ("loras", "input", "output"):
        (disk / kind).mkdir(parents=True)
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "other").symlink_to(disk / kind)
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    for kind in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return disk


def small() -> RankedLora:
    return random_lora(SMALL).rotated()


def test_a_linked_loras_folder_is_read_and_written(disk, nodes):
    name, _ = save_under_loras(small(), "other/new/owl", form="kohya")
    assert name == "other/new/owl_00001_.safetensors"
    assert (disk / "loras" / "new" / "owl_00001_.safetensors").is_file()
    assert save_under_loras(small(), "other/new/owl", form="kohya")[0].endswith(
        "00002_.safetensors"
    )
    assert nodes["LoRA2Load"].validate_inputs(lora_name=name) is True
    assert nodes["LoRA2Info"].execute(name).ui
    assert lora_path("other/../../disk/loras/new/owl_00001_.safetensors") is None


def test_a_linked_file_is_read_and_never_written(disk):
    (disk / "real.safetensors").write_bytes(b"mine")
    link = Path(folder_paths.get_folder_paths("loras")[0]) / "owl_00001_.safetensors"
    link.symlink_to(disk / "real.safetensors")
    assert lora_path(link.name) == link
    assert save_under_loras(small(), "owl", form="kohya")[0] == "owl_00002_.safetensors"
    assert (disk / "real.safetensors").read_bytes() == b"mine"


def test_a_linked_output_folder_is_written(disk):
    folder, start = numbered_files("other/previews/owl")
    assert folder.resolve() == disk / "output" / "previews" and start == "owl_00001_"


def test_a_linked_input_folder_is_listed_and_read(disk, nodes, playground):
    Image.new("RGB", (32, 32), "red").save(disk / "input" / "a.png")
    (disk / "input" / "b.png").symlink_to(disk / "input" / "a.png")
    node = nodes["LoRA2Dataset"]
    assert node.define_schema().inputs[0].options == ["other"]
    assert node.validate_inputs(folder="other") is True
    given = {"clip": playground.clip, "vae": playground.vae, "caption": "owl", "resolution": 32}
    assert len(node.execute(folder="other", **given).args[0]) == 2
