"""Text encoders of the host's own classes, small and random: trained, saved, and read by the host.

`nox -s models -- --encoders` prints a row for each.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import comfy.sd
import comfy.text_encoders.llama as llama
import comfy.text_encoders.qwen3vl as qwen3vl
import comfy.text_encoders.qwen_vl as qwen_vl
import comfy.utils
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders import (
    anima,
    aura_t5,
    flux,
    hidream,
    hunyuan_video,
    krea2,
    lumina2,
    omnigen2,
    pixart_t5,
    qwen_image,
    sd3_clip,
    wan,
    z_image,
)

from lora2_core import RankSettings, load, save
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.naming import base_facts, model_names
from lora2_core.host.training.loan import lent
from lora2_core.host.training.text_encoder import TextEncoder, TextSettings
from lora2_core.layers.adapters import attach
from lora2_core.layers.finish import finish

from .build import build as build_model
from .trial import CLOSE, Row

CLIP = {"num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 3}
CLIP_L, CLIP_G = CLIP | {"hidden_size": 32}, CLIP | {"hidden_size": 48}
T5 = {"d_model": 48, "d_ff": 64, "d_kv": 24, "num_heads": 2, "num_layers": 2}
LLM = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 3,
}  # fmt: skip
PROMPT = "a red owl, in the rain"


# name -> tokenizer, class of the encoders, sizes by the host's names of them
ENCODERS: dict[str, tuple] = {
    "Flux": (flux.FluxTokenizer, flux.flux_clip(torch.float32), {"clip_l": CLIP_L, "t5xxl": T5}),
    "SD3": (
        sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(dtype_t5=torch.float32),
        {"clip_l": CLIP_L, "clip_g": CLIP_G, "t5xxl": T5 | {"d_model": 4096}},  # joined at 4096
    ),
    "PixArt, Chroma, LTX": (
        pixart_t5.PixArtTokenizer, pixart_t5.pixart_te(torch.float32), {"t5xxl": T5}
    ),
    "AuraFlow": (aura_t5.AuraT5Tokenizer, aura_t5.AuraT5Model, {"pile_t5xl": T5}),
    "Wan": (wan.WanT5Tokenizer, wan.te(torch.float32), {"umt5xxl": T5}),
    "Lumina 2": (lumina2.LuminaTokenizer, lumina2.te(torch.float32), {"gemma2_2b": LLM}),
    "Z-Image": (z_image.ZImageTokenizer, z_image.te(torch.float32), {"qwen3_4b": LLM}),
    "Flux.2 Klein": (
        flux.KleinTokenizer, flux.klein_te(torch.float32),
        {"qwen3_4b": LLM | {"num_hidden_layers": 28}},
    ),
    "Qwen-Image": (
        qwen_image.QwenImageTokenizer, qwen_image.te(torch.float32), {"qwen25_7b": LLM}
    ),
    "Omnigen2": (omnigen2.Omnigen2Tokenizer, omnigen2.te(torch.float32), {"qwen25_3b": LLM}),
    "Krea 2": (
        krea2.Krea2Tokenizer, krea2.te(torch.float32),
        {"qwen3vl_4b": LLM | {"num_hidden_layers": 36}},
    ),
    "Anima": (anima.AnimaTokenizer, anima.te(torch.float32), {"qwen3_06b": LLM}),
    "HunyuanVideo": (
        hunyuan_video.HunyuanVideoTokenizer, hunyuan_video.hunyuan_video_clip(torch.float32),
        {"clip_l": CLIP_L, "llama": LLM | {"num_hidden_layers": 4}},  # read at the third last
    ),
    "HiDream": (
        hidream.HiDreamTokenizer,
        hidream.hidream_clip(dtype_t5=torch.float32, dtype_llama=torch.float32),
        {"clip_l": CLIP_L, "clip_g": CLIP_G, "t5xxl": T5, "llama": LLM},
    ),
}  # fmt: skip


def spiece() -> torch.Tensor:
    """A vocabulary of a few letters, as Gemma's and UMT5's files hold one."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([PROMPT, "the quick brown fox jumps over the lazy dog"] * 20),
        model_writer=out, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=3,
    )  # fmt: skip
    return torch.tensor(list(out.getvalue()), dtype=torch.uint8)


def build(name: str) -> comfy.sd.CLIP:
    """Returns the host's own CLIP of a family with small random encoders."""
    tokenizer, encoders, sizes = ENCODERS[name]
    options = {f"{part}_model_config": size for part, size in sizes.items()}
    tiny = {"hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "num_layers": 1}
    whole = qwen_vl.Qwen2VLVisionTransformer

    def small(**given):
        return whole(**{**given, **tiny})

    sight = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "depth": 2,
        "deepstack_visual_indexes": [0],
    }
    with (
        mock.patch.object(llama.qwen_vl, "Qwen2VLVisionTransformer", small),
        mock.patch.dict(qwen3vl.QWEN3VL_VISION, {"qwen3vl_4b": sight}),
        mock.patch.dict(qwen3vl.QWEN3VL_VISION_COMMON, {"num_heads": 2}),
    ):
        clip = comfy.sd.CLIP(
            ClipTarget(tokenizer, encoders),
            tokenizer_data={"spiece_model": spiece()},
            model_options={"dtype": torch.float32, **options},
        )
    generator = torch.Generator().manual_seed(0)
    for parameter in clip.cond_stage_model.parameters():
        vector = parameter.ndim < 2
        scale = 0.02 if vector else 0.5 * parameter[0].numel() ** -0.5
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data.copy_(noise + vector)
    return clip


def tried(name: str) -> Row:
    """Returns the row of a text encoder: how many layers are trained and how many are idle, else at
    which stage it failed.
    """
    stage = "build"
    try:
        clip, model = build(name), build_model("SD15")
        stage = "gradients"
        lora, idle = learned(model, clip)
        stage = "files"
        files(model, clip, lora)
        first = next(iter(lora.layers))
        return Row(name, "works", len(lora.layers), idle, first)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Row(name, "refused", why=f"{stage}: {reason}")


def learned(model, clip):
    """Returns an adapter of all layers that are trained by default after a step against the slope,
    and how many layers have no gradient.
    """
    with torch.inference_mode(False), lent(model, clip.patcher) as loan:
        encoder = TextEncoder(clip, loan)
        layers = TextSettings().chosen(encoder.patcher.model)
        settings = RankSettings(mode="fixed", target_rank=2)
        adapters = attach(encoder.patcher.model, layers, settings)
        try:
            generator = torch.Generator().manual_seed(2)
            with torch.no_grad():
                for c in adapters.components.values():
                    c.lora_up.normal_(0, 0.1, generator=generator)

            def loss() -> torch.Tensor:
                return encoder.encode(PROMPT)[0].float().square().mean()

            loss().backward()
            parts = adapters.components.values()
            some = [c for c in parts if c.lora_up.grad is not None and c.lora_up.grad.norm() > 0]
            if not some:
                raise ValueError("no layer has a gradient")
            check_slope(loss, max(some, key=lambda c: float(c.lora_up.grad.norm())))
            names = model_names(model, clip)
            facts = {"base": base_facts(model), "diffusers": {}, "names": names}
            return finish(adapters, facts), len(parts) - len(some)
        finally:
            adapters.detach()


@torch.no_grad()
def check_slope(loss: Callable[[], torch.Tensor], component) -> None:
    """Raises ValueError unless a gradient is the slope of the loss."""
    grad, ends = component.lora_up.grad.clone(), []
    length = float(grad.norm())
    for way in (1e-2 / length, -2e-2 / length, 1e-2 / length):
        component.lora_up += way * grad
        ends.append(float(loss()))
    found = (ends[0] - ends[1]) / 2e-2
    if abs(found - length) > 0.03 * length + 1e-5:
        raise ValueError(f"a gradient is {length:.4g}, the slope of the loss {found:.4g}")


def files(model, clip, lora) -> None:
    """The host's loader takes every layer of the file, and both loaders encode alike."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save(path, lora, dtype="fp32")
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        _, stock = comfy.sd.load_lora_for_models(model, clip, tensors, 0.0, 1.0)
        if len(stock.patcher.patches) != len(lora.layers):
            taken, count = len(stock.patcher.patches), len(lora.layers)
            raise ValueError(f"the host's loader takes {taken} of {count} layers")
        _, ours = apply_lora(model, clip, adopt(load(path), model, clip), 1.0, 1.0)
    texts = [
        c.encode_from_tokens_scheduled(c.tokenize(PROMPT))[0][0].clone()
        for c in (clip, stock, ours)
    ]
    size = float(texts[0].abs().max())
    if float((texts[1] - texts[2]).abs().max()) > CLOSE * size:
        raise ValueError("the host's loader and ours encode differently")
    if torch.equal(texts[0], texts[1]):
        raise ValueError("the adapter changes nothing")
