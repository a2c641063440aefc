"""Samples of the playground through the host's own KSampler code, many prompts in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import nodes


def encode(clip, prompts: Sequence[str]) -> list:
    """One conditioning whose batch holds one prompt a sample."""
    entries = [clip.encode_from_tokens_scheduled(clip.tokenize(p))[0] for p in prompts]
    pooled = torch.cat([facts["pooled_output"] for _, facts in entries])
    return [[torch.cat([cross for cross, _ in entries]), {"pooled_output": pooled}]]


@torch.inference_mode()
def sample(
    model, clip, vae, prompts: Sequence[str], seed: int = 0, steps: int = 20, cfg: float = 4.0
) -> Tensor:
    """One picture a prompt: [N, 32, 32, 3] in [0, 1]."""
    latent = nodes.EmptyLatentImage().generate(32, 32, len(prompts))[0]
    positive, negative = encode(clip, prompts), encode(clip, [""] * len(prompts))
    out = nodes.common_ksampler(
        model, seed, steps, cfg, "euler", "normal", positive, negative, latent
    )[0]
    return vae.decode(out["samples"])
