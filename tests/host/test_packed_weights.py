"""Adapters on models whose weights are packed in their state (nvfp4, int4, GGUF), or stored without
their scale: shapes and values are those that the layers stand for.
"""

import pytest
import torch

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.other_kinds import OtherChange
from lora2_core.host.apply import apply_lora, updates
from lora2_core.host.importance import RELATIVE, importance_of
from lora2_core.host.model_pairs import of_model
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.host.weights import shapes_in, values_of
from tests.benchmarks.quantised import KINDS, with_layers
from tests.host.flow_models import pictures
from tests.host.kept import quiet
from tests.tiers import fast

PATH = "diffusion_model.double_blocks.0.img_attn.qkv"
KEY = f"{PATH}.weight"
ROWS, COLUMNS = 1536, 512
PACKED = ["nvfp4", "int4, rotated", "GGUF Q4", "GGUF Q8"]
SCALED = ["fp8 scaled", "mxfp8", "int8, a scale a row", *PACKED]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 0.1


def made(kind: str):
    """The model, and one with the weights that its layers stand for."""
    with torch.inference_mode():
        return with_layers(KINDS[kind], plain=False), with_layers(KINDS[kind], plain=True)


@pytest.mark.parametrize("kind", fast(SCALED))
def test_shapes_and_values_are_those_that_layers_stand_for(kind):
    model, plain = made(kind)
    shapes = shapes_in(model.model)
    for key, shape in shapes_in(plain.model).items():
        assert shapes[key] == shape, key
    wanted = plain.model.state_dict()[KEY].float()
    torch.testing.assert_close(values_of(model, KEY), wanted, rtol=0.01, atol=0.01)
    model.backup[KEY] = type("Kept", (), {"weight": plain.model.state_dict()[KEY]})()
    assert torch.equal(values_of(model, KEY), wanted), "of a weight that holds patches now"


@pytest.mark.parametrize("kind", fast(PACKED))
def test_an_adapter_of_any_kind_fits(kind):
    model, plain = made(kind)
    pair = LoraLayer(drawn(ROWS, 2), drawn(2, COLUMNS))
    patched, _ = apply_lora(model, None, RankedLora({PATH: pair}), 1.0, 1.0)
    assert patched.patches.keys() == {KEY}
    with pytest.raises(ValueError, match=f"this model's is {ROWS} x {COLUMNS}"):
        small = LoraLayer(drawn(ROWS, 2), drawn(2, COLUMNS // 2))
        apply_lora(model, None, RankedLora({PATH: small}), 1.0, 1.0)
    change = OtherChange({".diff": drawn(ROWS, COLUMNS)})
    patched, _ = apply_lora(model, None, RankedLora({}, others={PATH: change}), 1.0, 1.0)
    assert patched.patches.keys() == {KEY}


@pytest.mark.parametrize("kind", fast(SCALED))
def test_what_depends_on_weights_is_that_of_the_values(kind):
    model, plain = made(kind)
    dora = {
        ".lora_up.weight": drawn(ROWS, 2), ".lora_down.weight": drawn(2, COLUMNS),
        ".dora_scale": drawn(ROWS, 1) + 1,
    }  # fmt: skip
    lora = RankedLora({}, others={PATH: OtherChange(dora)})
    found, wanted = updates(lora, model)(PATH), updates(lora, plain)(PATH)
    assert (found - wanted).norm() < 0.01 * wanted.norm()
    other = "diffusion_model.double_blocks.1.img_mlp.0"
    pairs = {
        PATH: LoraLayer(drawn(ROWS, 2), drawn(2, COLUMNS)),
        other: LoraLayer(drawn(1024, 2), drawn(2, COLUMNS)),
    }
    pairs = RankedLora(pairs)
    counts = importance_of(pairs, RELATIVE, model)
    assert counts == pytest.approx(importance_of(pairs, RELATIVE, plain), rel=0.01)


@pytest.mark.parametrize("kind", fast(PACKED))
def test_what_was_trained_is_applied(kind):
    model, _ = made(kind)
    choices = Choices.of({"steps": 1, "mode": "fixed", "target_rank": 2, "targets": "img_attn.qkv"})
    out = train_on(model, *pictures("Flux"), choices, quiet)
    patched, _ = apply_lora(model, None, out.lora, 1.0, 1.0)
    assert len(patched.patches) == len(out.lora.layers) == 2


@pytest.mark.parametrize("kind", fast(SCALED))
def test_the_difference_of_two_models_is_that_of_their_values(kind):
    model, plain = made(kind)
    shapes, wanted = of_model("one", model).shapes, of_model("other", plain)
    assert shapes == wanted.shapes
    pair = LoraLayer(drawn(ROWS, 2), drawn(2, COLUMNS))
    patched, _ = apply_lora(model, None, RankedLora({PATH: pair}), 1.0, 1.0)
    base, changed = of_model("one", model).read(PATH), of_model("two", patched).read(PATH)
    torch.testing.assert_close(base.float(), wanted.read(PATH).float(), rtol=0.01, atol=0.01)
    torch.testing.assert_close(changed - base, pair.up @ pair.down, rtol=1e-3, atol=1e-3)
