"""What an adapter says of itself: norms in any basis, tables, metadata that may be hostile."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.origin import Origin, SourceFile
from lora2_core.charts.info import LONGEST, layer_table, metadata_text, summary, tags

NAME = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_{}"


def adapter(metadata: dict | None = None, ranks=(3, 1, 5)) -> RankedLora:
    generator = torch.Generator().manual_seed(0)

    def layer(rank: int) -> LoraLayer:
        up, down = (torch.randn(s, generator=generator) for s in ((12, rank), (rank, 20)))
        return LoraLayer(up, down)

    layers = {NAME.format(part): layer(rank) for part, rank in zip("qkv", ranks, strict=True)}
    return RankedLora(layers, Origin(file=SourceFile(metadata=metadata or {})))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 6), st.integers(0, 2**31))
def test_the_norm_is_that_of_the_full_matrix(rows: int, columns: int, rank: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(s, generator=generator) for s in ((rows, rank), (rank, columns)))
    expected = float((up.double() @ down.double()).norm())
    assert LoraLayer(up, down).norm == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_norm_of_a_convolution_counts_its_taps():
    generator = torch.Generator().manual_seed(1)
    up, down = (torch.randn(s, generator=generator) for s in ((7, 3, 1, 1), (3, 5, 3, 3)))
    layer = LoraLayer.from_tensors(up, down)
    assert layer.norm == pytest.approx(float(layer.delta().norm()), rel=1e-5)


def test_the_norm_needs_no_singular_basis():
    """Positions that cancel each other are no update, whatever their own sizes are."""
    up, down = torch.ones(4, 2), torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    assert LoraLayer(up, down).norm == 0 < float(LoraLayer(up, down).energy.sum())


def test_the_table_has_every_layer_and_adds_up():
    lora = adapter()
    lines = layer_table(lora).splitlines()
    assert len(lines) == 2 + 3 + 1
    ranks = [int(line.split("|")[2]) for line in lines[2:-1]]
    assert ranks == [3, 1, 5]
    shares = [float(line.split("|")[6].strip(" %")) for line in lines[2:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.05)
    assert f"| {2 * lora.parameters} | 100% |" in lines[-1]


def test_metadata_is_readable_and_long_values_are_cut():
    tag_counts = {"10_owl": {"owl": 8, "red": 2}, "b": {"red": 9}}
    metadata = {
        "zebra": "x" * 10 * LONGEST, "ss_steps": "400", "modelspec.title": "Owl",
        "ss_tag_frequency": json.dumps(tag_counts), "broken": "[1, 2",
    }  # fmt: skip
    text = metadata_text(metadata)
    keys = [line.split(":")[0] for line in text.splitlines() if line[0] not in ' {}"']
    assert keys[:2] == ["modelspec.title", "ss_steps"] and "broken" in keys
    assert f"({10 * LONGEST} characters)" in text and len(text) < 2 * LONGEST
    assert tags(metadata) == ["red", "owl"]
    assert metadata_text({}) == "This file has no metadata."


@pytest.mark.parametrize(
    "value",
    ["", "null", "[]", "[" * 100_000, '{"a": 3}', '{"a": {"b": "many"}}', "{", '{"a":{"b":1e999}}'],
)
def test_damaged_tags_are_none(value: str):
    assert tags({"ss_tag_frequency": value}) == []
    assert summary(adapter({"ss_tag_frequency": value}), "a").startswith("a: ")


def test_the_summary_tells_size_ranks_and_run():
    metadata = {"ss_base_model_version": "sdxl_base_v1-0", "ss_steps": "400"}
    text = summary(adapter(metadata), "owl.safetensors")
    assert text.startswith("owl.safetensors: 0.00 MB in fp16, 3 layers\nranks 1 to 5, mean 3.0\n")
    assert "base sdxl_base_v1-0, steps 400" in text and "most energy: diffusion_model" in text
