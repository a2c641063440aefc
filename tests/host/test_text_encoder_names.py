"""Text encoders of the real classes, shrunk and randomly initialised: names in files, weighted and
long prompts, and the layer where the model reads them.
"""

import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.text_encoders.sd2_clip
import comfy.utils
import pytest
import torch
from comfy.supported_models_base import ClipTarget

from lora2_core import save
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.loan import lent
from lora2_core.host.training.run import train_on
from lora2_core.host.training.text_encoder import TextEncoder, TextSettings, text_layers
from tests.host.kept import quiet
from tests.host.test_real_shapes import SD2, SD15, SDXL, patcher

CONFIG = {"num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 3}
SIZES = {"l": 32, "g": 32, "h": 64}
CLASSES = {
    "SD1.5": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
    "SD2": (comfy.text_encoders.sd2_clip.SD2Tokenizer, comfy.text_encoders.sd2_clip.SD2ClipModel),
    "SDXL": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
}
UNETS = {
    "SD1.5": (comfy.supported_models.SD15, SD15),
    "SD2": (comfy.supported_models.SD20, SD2),
    "SDXL": (comfy.supported_models.SDXL, SDXL),
}
PREFIXES = {"SD1.5": ["lora_te"], "SD2": ["lora_te"], "SDXL": ["lora_te1", "lora_te2"]}
PROMPTS = ["a (red:1.3) owl", "a bear, " + "very " * 90 + "big"]


def build(name: str) -> comfy.sd.CLIP:
    """The host's own CLIP, weights drawn small."""
    sizes = SIZES | ({"l": 64} if name == "SD1.5" else {})
    configs = {
        f"clip_{part}_model_config": CONFIG | {"hidden_size": size} for part, size in sizes.items()
    }
    options = {"dtype": torch.float32} | configs
    clip = comfy.sd.CLIP(ClipTarget(*CLASSES[name]), model_options=options)
    generator = torch.Generator().manual_seed(0)
    for parameter in clip.cond_stage_model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data.copy_(noise + (parameter.ndim == 1))
    return clip


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_of_both_loads_in_the_stock_loader(name: str, tmp_path, caplog):
    clip = build(name)
    family, config = UNETS[name]
    model = patcher(family, config, torch.float32, comfy.model_base.ModelType.EPS)
    generator = torch.Generator().manual_seed(1)
    latents = [{"samples": torch.randn(2, 4, 16, 16, generator=generator)}]
    positive = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in PROMPTS]
    run = Choices.of({
        "steps": 6, "learning_rate": 1e-2, "mode": "fixed", "target_rank": 2, "max_rank": 4,
        "clip": clip, "captions": PROMPTS, "text_targets": "self_attn|mlp",
    })  # fmt: skip
    out = train_on(model, latents, positive, run, quiet)
    text = [n for n in out.lora.layers if n.startswith("lora_te")]
    assert list(dict.fromkeys(n.split("_text_model")[0] for n in text)) == PREFIXES[name]
    assert len(text) == 3 * 6 * len(PREFIXES[name])
    learned = [n for n in text if out.lora.layers[n].energy.sum() > 0]
    assert len(learned) == (len(text) if name == "SD1.5" else len(text) - 6 * 1), (
        "all but those behind the layer that is read: SD2's last, and that of SDXL's first"
    )
    save(tmp_path / "a.safetensors", out.lora, dtype="fp32")
    tensors = comfy.utils.load_torch_file(str(tmp_path / "a.safetensors"), safe_load=True)
    stock, stock_clip = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    assert not [r for r in caplog.records if "lora key" in r.getMessage().lower()]
    assert len(stock.patches) + len(stock_clip.patcher.patches) == len(out.lora.layers)
    assert len(stock_clip.patcher.patches) == len(text)


@pytest.mark.parametrize("layer", [None, -1, -2])
@pytest.mark.parametrize("name", CLASSES)
def test_captions_are_encoded_as_the_host_encodes_them(name: str, layer):
    """Weights in brackets, more than 77 tokens, and another layer (clip skip)."""
    clip = build(name)
    if layer is not None:
        clip.clip_layer(layer)
    model = patcher(*UNETS[name], torch.float32, comfy.model_base.ModelType.EPS)
    expected = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in PROMPTS]
    with lent(model, clip.patcher) as loan:
        encoder = TextEncoder(clip, loan)
        found = [encoder.encode(text) for text in PROMPTS]
    for (cross, facts), (own, own_facts) in zip(expected, found, strict=True):
        torch.testing.assert_close(own, cross)
        torch.testing.assert_close(own_facts["pooled_output"], facts["pooled_output"])


def test_one_of_two_encoders_can_be_chosen():
    stage = build("SDXL").cond_stage_model
    names = TextSettings(text_targets="te1.*self_attn").chosen(stage)
    assert len(names) == 12 and all(name.startswith("lora_te1") for name in names)
    assert len(text_layers(stage)) == 36


def test_an_encoder_without_a_layer_is_refused():
    clip = build("SD1.5")
    clip.cond_stage_model = torch.nn.Module()
    model = patcher(*UNETS["SD1.5"], torch.float32, comfy.model_base.ModelType.EPS)
    with pytest.raises(ValueError, match="This text encoder has no layer that ComfyUI reads in a"):
        train_on(model, [{"samples": torch.zeros(1, 4, 16, 16)}],
                 [[[torch.zeros(1, 77, 64), {}]]], Choices.of({"clip": clip}), quiet)  # fmt: skip
