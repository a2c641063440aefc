"""Random latents and a caption that a small model takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lora2_core.host.training.one_step import takes_one_step

from .build import diffusion_class, shape_of

TOKENS, POOLED = 6, 20
TOKENS_OF = {"HunYuanDiT": 77}  # where the model fixes their number
SIDE, FRAMES, LENGTH = 8, 3, 16  # of latents: height and width, frames, length of audio
# names that the width of captions has in the host's configurations
WIDTHS = (
    "context_dim", "context_in_dim", "crossattn_emb_channels", "text_dim", "cap_feat_dim",
    "joint_attention_dim", "caption_channels", "text_feat_dim", "instruction_feat_dim",
    "txt_embed_dim", "text_embed_dim", "cond_token_dim", "cond_seq_dim", "t5_feat_dim",
    "in_text_dim", "text_embedding_dim", "text_hidden_dim", "text_states_dim", "context_size",
    "c_clip_text", "c_clip", "llm_features_dim", "text_in_dim", "enc_hidden_dim", "cond_channels",
    "txt_in_dim",
)  # fmt: skip
# where the width follows from several numbers, or is none of the configuration's
OWN_WIDTHS = {
    "SingleStreamDiT": lambda c: c["txtlayers"] * c["txtdim"],
    "LensTransformer2DModel": lambda c: 4 * c["enc_hidden_dim"],
    "LTXAVModel": lambda c: 2 * c["caption_channels"],
    "NaDiT": lambda c: 5120,
    "StageB": lambda c: c["c_clip"],
}
# shapes of latents without the batch, where they are not the usual ones of their dimensions
LATENTS: dict[str, tuple[int, ...]] = {
    "StageB": (4, 24, 24), "HiDreamO1Transformer": (3, 64, 64),
    "ACEStepTransformer2DModel": (8, 16, 16),
    "NextDiTPixelSpace": (3, 16, 16), "ChromaRadiance": (3, 16, 16),
    "SingleStreamDiT": (16, 1, SIDE, SIDE), "PixDiT_T2I": (3, 16, 16),
    "PidNet": (3, 32, 32), "HunYuanDiT": (4, 16, 16), "PixArtMS": (4, 64, 64),
}  # fmt: skip
# several tensors in one latent: video and audio, or a sequence and a camera
NESTED: dict[str, tuple[tuple[int, ...], ...]] = {
    "LTXAVModel": ((128, FRAMES, 4, 4), (8, LENGTH, 16)),
    "MiniMaxH3Model": ((24, FRAMES, SIDE, SIDE), (32, 2, LENGTH)),
    "LatentSeqMMFlowModel": ((16, 16), (1, 5)),
}


def more_facts(name: str, draw: Callable[..., Tensor]) -> dict:
    """Returns what the captions of some models have beside their tokens."""
    shape = shape_of(name)
    ones = torch.ones(1, TOKENS, dtype=torch.int64)
    return {
        "HiDreamImageTransformer2DModel": {
            "conditioning_llama3": draw(1, 4, TOKENS, 24),
        },
        "LTXVModel": {"attention_mask": ones}, "LTXAVModel": {"attention_mask": ones},
        "HunYuanDiT": {
            "conditioning_mt5xl": draw(1, 256, shape.get("text_states_dim_t5", 0)),
            "attention_mask": torch.ones(1, 77), "attention_mask_mt5xl": torch.ones(1, 256),
        },
        "ACEStepTransformer2DModel": {"conditioning_lyrics": torch.arange(TOKENS)[None]},
        "AceStepConditionGenerationModel": {
            "conditioning_lyrics": draw(1, TOKENS, shape.get("text_hidden_dim", 0)),
        },
        "Anima": {
            "t5xxl_ids": torch.arange(TOKENS), "t5xxl_weights": torch.ones(TOKENS),
        },
        "HiDreamO1Transformer": {"text_input_ids": torch.arange(100, 100 + TOKENS)[None]},
        "OmniGen2Transformer2DModel": {"attention_mask": ones},
        "BooguTransformer2DModel": {"attention_mask": ones},
        "AsymmDiTJoint": {"attention_mask": ones.bool()},
        "PidNet": {"lq_latent": draw(1, 16, 1, 1), "degrade_sigma": torch.zeros(1)},
        "LatentSeqMMFlowModel": {"reference_latents": [draw(1, 128, 4, 4)]},
        "NaDiT": {"condition": draw(1, 17, FRAMES, SIDE, SIDE)},
    }.get(diffusion_class(name).__name__, {})  # fmt: skip


def width_of(name: str) -> int:
    """Returns the width of captions."""
    diffusion, shape = diffusion_class(name).__name__, shape_of(name)
    if diffusion in OWN_WIDTHS:
        return OWN_WIDTHS[diffusion](shape)
    known = [shape[w] for w in WIDTHS if w in shape]
    width = known[0] if known else 64
    return width[0] if isinstance(width, (list, tuple)) else width


def latent_shapes(name: str, model) -> list[tuple[int, ...]]:
    """Returns the shapes [channels, ...] of the tensors of one latent."""
    diffusion = diffusion_class(name).__name__
    if diffusion in NESTED:
        return list(NESTED[diffusion])
    form = model.get_model_object("latent_format")
    if diffusion in LATENTS:
        return [LATENTS[diffusion]]
    sides = {1: (LENGTH,), 2: (SIDE, SIDE), 3: (FRAMES, SIDE, SIDE)}[form.latent_dimensions]
    return [(form.latent_channels, *sides)]


def data_for(name: str, model) -> tuple[list[dict], list[list]]:
    """Returns a LATENT of one example and its CONDITIONING."""
    from comfy.nested_tensor import NestedTensor

    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    parts = [draw(1, *shape) for shape in latent_shapes(name, model)]
    facts = {"pooled_output": draw(1, POOLED), **more_facts(name, draw)}
    if takes_one_step(model.get_model_object("model_sampling")):
        facts["reference_latents"] = [draw(*parts[0].shape)]
    samples = parts[0] if len(parts) == 1 else NestedTensor(parts)
    tokens = TOKENS_OF.get(diffusion_class(name).__name__, TOKENS)
    return [{"samples": samples}], [[[draw(1, tokens, width_of(name)), facts]]]
