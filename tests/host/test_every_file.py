"""A few of the files of `nox -s files`: what the host's own loader takes, LoRA2Load takes as well,
with the same result; and nothing is lost on the way into a file again.
"""

import inspect
import re

import comfy.lora
import comfy.weight_adapter
import folder_paths
import pytest
import safetensors.torch

from lora2_core.adapter.names import split_key
from lora2_core.adapter.other_kinds import KINDS as OTHER_KINDS
from tests.tiers import fast

from .every_file import KINDS, extra_names, files
from .every_loader import (
    NEAR,
    Tally,
    compare_loaders,
    difference,
    round_trips,
    stock,
    weights,
)
from .flow_models import build

NAMES = ["Flux", "Flux 2", "SD3", "Lumina 2", "Z-Image", "Qwen-Image", "Wan 2.1", "Playground"]
# kinds of which the host makes nothing: its Kronecker product fails on such a core
IDLE = {"LoKr of a kernel"}
FEWEST = 70  # files of a model; Wan has the fewest names, and 76


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A folder that stands for the loras folder."""
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path


def model_of(name: str, playground):
    return playground.model if name == "Playground" else build(name)


def few(*kinds: str):
    """The files of some kinds alone."""
    return lambda model: (f for f in files(model) if f[0] in kinds)


@pytest.mark.parametrize("name", fast(NAMES, "Z-Image"))
def test_every_file_of_the_host_gives_what_the_host_makes_of_it(name, nodes, playground, loras):
    tally = Tally()
    compare_loaders(nodes, model_of(name, playground), loras, name, tally)
    assert not tally.wrong and tally.tried > FEWEST and tally.idle <= IDLE
    assert not tally.refused or set(tally.refused) <= {"every.safetensors"}


@pytest.mark.parametrize("name", fast(NAMES, "Z-Image", "Playground"))
def test_nothing_is_lost_in_silence_on_the_way_into_a_file(name, nodes, playground, loras):
    tally = Tally()
    kinds = few("LoRA, kohya", "LoRA, PEFT", "LoKr", "pair and bias")
    round_trips(nodes, model_of(name, playground), loras, name, tally, kinds)
    assert not tally.wrong and tally.equal > tally.tried / 3


def test_kernels_of_three_sides_are_spread_as_the_host_spreads_them(nodes, loras):
    tally = Tally()
    kinds = few("LoKr of the host's trainer", "LoHa")
    round_trips(nodes, build("Wan 2.1"), loras, "", tally, kinds, ("Compress with model", "Merge"))
    assert not tally.wrong and tally.equal > tally.tried / 3


@pytest.mark.parametrize("name", fast(NAMES, "Z-Image", "Playground"))
def test_spellings_that_the_host_does_not_read_are_read(name, nodes, playground, loras):
    """Of musubi, PEFT and diffusers: as the host reads the same pair under its own name."""
    model, tried = model_of(name, playground), set()
    for what, tensors, key in extra_names(model):
        if (beginning := re.match(r"(\w+_unet_|\w+\.)?", what)[0]) in tried:
            continue
        tried.add(beginning)
        safetensors.torch.save_file(tensors, loras / "own.safetensors")
        ours = weights(nodes["LoRA2Load"].execute(model, "own.safetensors").result[0])
        path = key.removesuffix(".weight")
        same = {path + k.removeprefix(what): t for k, t in tensors.items()}
        safetensors.torch.save_file(same, loras / "host.safetensors")
        theirs = stock(loras / "host.safetensors", model)
        assert difference(ours, theirs) <= NEAR, what
    assert {"base_model.", "model."} < tried


def test_every_ending_that_the_host_knows_is_known_here():
    """A new kind of the host must get its place in KINDS, or else it would be left out."""
    modules = {inspect.getmodule(a) for a in comfy.weight_adapter.adapters} | {comfy.lora}
    texts = [inspect.getsource(module) for module in modules]
    endings = {e for text in texts for e in re.findall(r'"\{\}([._][\w.]+)"\.format\(x\)', text)}
    assert len(endings) > 25
    unknown = [e for e in endings if e not in OTHER_KINDS and split_key(f"x{e}") is None]
    assert unknown == []


def test_the_tally_sees_what_it_looks_for(nodes, playground, loras, monkeypatch):
    """These tests prove nothing unless a wrong loader is found out."""
    from lora2_core.host import applied

    monkeypatch.setattr(applied, "patches_of", lambda lora, targets: {})
    tally = Tally()
    compare_loaders(nodes, playground.model, loras, "", tally, few("LoRA, kohya", "diff"))
    assert tally.wrong and not tally.equal and len(KINDS) > 30
