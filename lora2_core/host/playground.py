"""The playground as the host's own MODEL, CLIP and VAE objects."""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep
from comfy.supported_models_base import ClipTarget

from ..playground.asset import (
    HEAD_CHANNELS,
    SIZE_EMBEDDING,
    TEXT_WIDTH,
    UNET_CONFIG,
    Asset,
    text_config,
)
from ..playground.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from ..playground.tokenizer import MAX_LENGTH, WordTokenizer


class PlaygroundSDXL(comfy.model_base.SDXL):
    """The host's SDXL with narrower size embeddings."""

    def __init__(self, model_config, **kwargs):
        super().__init__(model_config, **kwargs)
        self.embedder = Timestep(SIZE_EMBEDDING)


def latent_format(scale: float, rgb: list[list[float]]) -> type:
    """Returns the latent format of the playground's autoencoder, a class."""

    class PlaygroundLatents(comfy.latent_formats.LatentFormat):
        latent_channels = LATENT_CHANNELS
        spacial_downscale_ratio = DOWNSCALE
        scale_factor = scale
        latent_rgb_factors = rgb[:-1]
        latent_rgb_factors_bias = rgb[-1]

    return PlaygroundLatents


def build_model(latent_format_class: type) -> PlaygroundSDXL:
    """Returns the UNet in the host's SDXL model class. Its weights have no values yet, as in all of
    the host's layers.
    """

    class Config(comfy.supported_models.SDXL):
        latent_format = latent_format_class
        unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD_CHANNELS}

        def inpaint_model(self):
            return False

    config = Config(dict(UNET_CONFIG))
    config.set_inference_dtype(torch.float32, None)
    return PlaygroundSDXL(config, model_type=comfy.model_base.ModelType.EPS)


def build_clip(vocabulary: list[str], **options) -> comfy.sd.CLIP:
    """Returns the text encoder as a CLIP object of the host, with the playground's vocabulary."""

    class TextModel(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options,
                max_length=MAX_LENGTH,
                textmodel_json_config=text_config(MAX_LENGTH),
                special_tokens={"start": 0, "end": 1, "pad": 1},
            )
            words = self.operations.Embedding(
                len(vocabulary), TEXT_WIDTH, dtype=dtype, device=device
            )
            self.transformer.set_input_embeddings(words)

    class ClipModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006
            super().__init__(
                device=device, dtype=dtype, model_options=model_options, clip_model=TextModel
            )

    class Words(WordTokenizer):
        @classmethod
        def from_pretrained(cls, _path: str) -> Words:
            return cls(vocabulary)

    class TextTokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006
            super().__init__(
                "",
                max_length=MAX_LENGTH,
                embedding_directory=embedding_directory,
                embedding_size=TEXT_WIDTH,
                tokenizer_class=Words,
                tokenizer_data=tokenizer_data,
            )

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006
            super().__init__(embedding_directory, tokenizer_data, tokenizer=TextTokenizer)

    return comfy.sd.CLIP(
        ClipTarget(Tokenizer, ClipModel), model_options={"dtype": torch.float32}, **options
    )


def build_vae(weights: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """Returns the autoencoder as a VAE object of the host."""
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
    vae.first_stage_model = Autoencoder().eval().requires_grad_(False)
    vae.first_stage_model.load_state_dict(weights)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model,
        load_device=vae.device,
        offload_device=comfy.model_management.vae_offload_device(),
    )
    vae.downscale_ratio = vae.upscale_ratio = DOWNSCALE
    vae.latent_channels = LATENT_CHANNELS
    vae.process_input = lambda image: image * 2.0 - 1.0
    vae.memory_used_encode = vae.memory_used_decode = lambda shape, dtype: (
        4096 * shape[2] * shape[3]
    )
    return vae


def load_model(asset: Asset, disable_dynamic: bool = True) -> comfy.model_patcher.ModelPatcher:
    """Returns the MODEL. Like the host's own loaders it says how to load a second copy of its
    weights; they are never dynamic.
    """
    model = build_model(latent_format(asset.latent_scale, asset.latent_rgb))
    model.diffusion_model.load_state_dict(asset.unet)
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
    patcher.cached_patcher_init = load_model, (asset,)
    return patcher


def load_playground(asset: Asset):
    """Returns (MODEL, CLIP, VAE) of the playground, as the host's checkpoint loader gives them."""
    clip = build_clip(asset.vocabulary)
    clip.cond_stage_model.clip_l.transformer.load_state_dict(asset.text)
    return load_model(asset), clip, build_vae(asset.vae)
