"""The shapes of small models, by the host's diffusion class or the class of its configuration.

What is not here gets the defaults of its diffusion class, made smaller by a rule (shrink.py).
"""

from __future__ import annotations

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "use_spatial_transformer": True,
    "use_checkpoint": False, "legacy": False, "use_temporal_attention": False,
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 24, "num_heads": -1, "num_head_channels": 16,
}  # fmt: skip
SDXL = {
    "num_classes": "sequential", "adm_in_channels": 20 + 6 * 256, "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2,
}  # fmt: skip
SVD = {
    "in_channels": 8, "num_classes": "sequential", "use_temporal_attention": True,
    "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True,
    "merge_strategy": "learned_with_images", "merge_factor": 0.0, "video_kernel_size": [3, 1, 1],
}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "hidden_size": 48, "num_heads": 2,
    "depth": 2, "depth_single_blocks": 2, "mlp_ratio": 2.0, "context_in_dim": 24, "vec_in_dim": 20,
    "axes_dim": [8, 8, 8], "theta": 10000, "qkv_bias": True, "txt_ids_dims": [],
    "guidance_embed": True,
}  # fmt: skip
CHROMA = {k: v for k, v in FLUX.items() if k != "guidance_embed"} | {
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 48, "hidden_dim": 32,
    "n_layers": 2,
}  # fmt: skip
HUNYUAN = {
    "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "hidden_size": 48,
    "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "mlp_ratio": 2.0, "context_in_dim": 24,
    "vec_in_dim": 20, "axes_dim": [8, 8, 8], "theta": 256, "qkv_bias": True,
    "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
HUNYUAN15 = {
    "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
    "vision_in_dim": 24, "byt5": True, "use_cond_type_embedding": True, "meanflow_sum": True,
}  # fmt: skip
WAN = {
    "dim": 48, "num_heads": 2, "ffn_dim": 64, "num_layers": 2, "freq_dim": 64, "text_dim": 24,
    "text_len": 16,
}  # fmt: skip
LUMINA = {
    "in_channels": 16, "patch_size": 2, "dim": 48, "cap_feat_dim": 24, "n_layers": 2,
    "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 2, "qk_norm": True, "axes_dims": [4, 4, 4],
    "axes_lens": [64, 64, 64], "multiple_of": 16, "ffn_dim_multiplier": 1.0,
}  # fmt: skip
# the width 256 is the narrowest that its time embedding can have
Z_IMAGE = {
    "dim": 256, "axes_dims": [24, 20, 20], "n_layers": 1, "n_kv_heads": 4, "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 8,
}  # fmt: skip
COSMOS = {
    "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 64, "num_blocks": 2, "num_heads": 2,
    "crossattn_emb_channels": 24, "pos_emb_cls": "rope3d", "pos_emb_interpolation": "crop",
    "use_adaln_lora": True, "adaln_lora_dim": 16,
}  # fmt: skip
OMNIGEN = {
    "hidden_size": 48, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2,
    "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": (8, 8, 8), "axes_lens": (64, 64, 64),
}  # fmt: skip

PIXEL_DIT = {
    "num_groups": 2, "hidden_size": 64, "pixel_attn_hidden_size": 32, "pixel_num_groups": 2,
    "patch_depth": 2, "pixel_depth": 1, "patch_size": 4, "txt_embed_dim": 24, "txt_max_length": 16,
}  # fmt: skip

SHAPES: dict[str, dict] = {
    # by the class of the diffusion model
    "UNetModel": UNET,
    "Flux": FLUX,
    "Chroma": CHROMA,
    "ChromaRadiance": CHROMA | {
        "in_channels": 3, "out_channels": 3, "patch_size": 4, "nerf_hidden_size": 16,
        "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 0,
        "nerf_final_head_type": "conv", "nerf_embedder_dtype": None, "use_x0": False,
        "use_sequential_txt_ids": False,
    },
    "HunyuanVideo": HUNYUAN,
    "NextDiT": LUMINA,
    "NextDiTPixelSpace": LUMINA | Z_IMAGE | {
        "in_channels": 3, "patch_size": 4, "decoder_hidden_size": 16, "decoder_num_res_blocks": 1,
        "decoder_max_freqs": 4, "decoder_in_channels": 48,
    },
    "WanModel": WAN, "VaceWanModel": WAN | {"vace_layers": 2, "vace_in_dim": 96},
    "CausalWanModel": WAN, "CameraWanModel": WAN, "HumoWanModel": WAN | {"audio_token_num": 2},
    "WanModel_S2V": WAN | {"audio_dim": 16, "num_audio_token": 2, "audio_inject_layers": [0]},
    "AnimateWanModel": WAN | {"motion_encoder_dim": 16, "num_heads": 2},
    "SCAILWanModel": WAN, "SCAIL2WanModel": WAN,
    "WanDancerModel": WAN | {
        "audio_inject_layers": [0], "music_dim": 16, "music_heads": 2, "music_latent_dim": 16,
    },
    "GeneralDIT": COSMOS | {
        "in_channels": 16, "block_config": "FA-CA-MLP", "block_x_format": "THWBD",
        "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True,
        "extra_per_block_abs_pos_emb_type": "learnable",
    },
    "MiniTrainDIT": COSMOS | {"in_channels": 16},
    "Anima": COSMOS | {"in_channels": 16, "crossattn_emb_channels": 1024},
    "OpenAISignatureMMDITWrapper": {
        "in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 20,
        "num_patches": 64, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None,
        "qk_norm": "rms", "x_block_self_attn_layers": [0], "context_processor_layers": 1,
        "context_size": 64, "mlp_ratio": 2.0, "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128},
        },
    },
    "QwenImageTransformer2DModel": {
        "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 24,
        "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 8, 8),
    },
    "OmniGen2Transformer2DModel": OMNIGEN | {"text_feat_dim": 24},
    "BooguTransformer2DModel": OMNIGEN | {
        "num_double_stream_layers": 1, "instruction_feat_dim": 24,
    },
    "SingleStreamDiT": {
        "features": 256, "tdim": 64, "txtdim": 64, "heads": 2, "kvheads": 1, "layers": 2,
        "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
    },
    "MMDiT": {
        "dim": 64, "n_layers": 3, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64,
        "cond_seq_dim": 24, "max_seq": 64,
    },
    "LensTransformer2DModel": {
        "in_channels": 128, "out_channels": 32, "num_layers": 2, "attention_head_dim": 64,
        "num_attention_heads": 2, "enc_hidden_dim": 24,
    },
    "AceStepConditionGenerationModel": {
        "hidden_size": 64, "text_hidden_dim": 24, "num_dit_layers": 2, "num_lyric_layers": 1,
        "num_timbre_layers": 1, "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 1,
        "head_dim": 32, "intermediate_size": 96, "fsq_dim": 64, "encoder_hidden_size": 64,
        "encoder_intermediate_size": 96, "encoder_num_heads": 2,
    },
    "MiniMaxH3Model": {
        "hidden_size": 64, "num_layers": 2, "token_refiner_num_layers": 1,
        "num_attention_heads": 2, "ffn_hidden_size": 96, "text_dim": 24, "timestep_input_dim": 32,
        "time_embed_hidden_size": 64, "time_embed_dim": 32,
    },
    "PixArtMS": {
        "input_size": 8, "hidden_size": 48, "depth": 2, "num_heads": 2, "caption_channels": 24,
        "pe_interpolation": 1, "micro_condition": False,
    },
    "LTXAVModel": {
        "in_channels": 128, "audio_in_channels": 128, "num_attention_heads": 2, "num_layers": 2,
        "attention_head_dim": 24, "cross_attention_dim": 48, "caption_channels": 24,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 12,
        "audio_cross_attention_dim": 24, "connector_attention_head_dim": 24,
        "connector_num_attention_heads": 1, "connector_num_layers": 1,
    },
    "LTXVModel": {
        "in_channels": 128, "cross_attention_dim": 24, "attention_head_dim": 12,
        "num_attention_heads": 2, "caption_channels": 24, "num_layers": 2,
    },
    "AsymmDiTJoint": {
        "depth": 2, "patch_size": 2, "num_heads": 2, "hidden_size_x": 48, "hidden_size_y": 32,
        "mlp_ratio_x": 256.0, "mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12,
        "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0,
        "posenc_preserve_area": True, "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": 24,
        "t5_token_length": 16,
    },
    "NaDiT": {
        "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "swiglu", "vid_dim": 64, "heads": 2,
        "head_dim": 32, "rope_dim": 32, "mm_layers": 1, "expand_ratio": 2, "vid_out_norm": True,
    },
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2,
        "num_single_layers": 2, "attention_head_dim": 24, "num_attention_heads": 2,
        "caption_channels": [24, 24], "text_emb_dim": 20, "axes_dims_rope": (8, 8, 8),
        "max_resolution": [16, 16], "llama_layers": [0, 1, 1, 1], "num_routed_experts": 2,
        "num_activated_experts": 1,
    },
    "HiDreamO1Transformer": {
        "text_config_overrides": {
            "vocab_size": 151936, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 32, "rope_dims": [6, 5, 5],
        },
        "vision_config_overrides": {
            "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "depth": 1,
            "deepstack_visual_indexes": (0,), "num_position_embeddings": 16,
        },
    },
    "StageC": {
        "c_cond": 32, "c_hidden": [32, 32], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]],
        "c_clip_text": 24, "c_clip_text_pooled": 20,
    },
    "StageB": {
        "c_cond": 32, "c_hidden": [16, 32], "nhead": [-1, 2], "blocks": [[1, 1], [1, 1]],
        "block_repeat": [[1, 1], [1, 1]], "level_config": ["CT", "CTA"], "dropout": [0, 0],
        "c_clip": 20,
    },
    "PixDiT_T2I": PIXEL_DIT, "PidNet": PIXEL_DIT | {"lq_hidden_dim": 16, "lq_num_res_blocks": 1},
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 32, "time_embed_dim": 32,
        "text_embed_dim": 24, "num_layers": 2, "use_rotary_positional_embeddings": True,
    },
    "Kandinsky5": {
        "model_dim": 48, "ff_dim": 96, "time_dim": 32, "in_text_dim": 24, "in_text_dim2": 20,
        "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (8, 8, 8),
        "visual_embed_dim": 132,
    },
    "ACEStepTransformer2DModel": {
        "num_layers": 2, "inner_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2,
        "text_embedding_dim": 24, "lyric_encoder_vocab_size": 64, "lyric_hidden_size": 1024,
        "max_width": 64,
    },
    "LatentSeqMMFlowModel": {
        "q_token_length": 16, "model_channels": 128, "cond_channels": 24, "num_blocks": 2,
        "num_refiner_blocks": 1, "mlp_ratio": 2,
    },
    # by the class of the configuration, over those above
    "StableAudio": {"cond_token_dim": 768, "global_cond_dim": 1536, "project_cond_tokens": True},
    "StableAudio3": {
        "cond_token_dim": 768, "project_cond_tokens": True,
        "timestep_features_type": "expo", "io_channels": 256, "local_add_cond_dim": 257,
        "global_cond_type": "adaLN", "global_cond_dim": 768,
    },
    "SDXL": SDXL, "SSD1B": SDXL, "KOALA_700M": SDXL, "KOALA_1B": SDXL, "Segmind_Vega": SDXL,
    "SDXL_instructpix2pix": SDXL | {"in_channels": 8},
    "SDXLRefiner": SDXL | {"adm_in_channels": 20 + 5 * 256},
    "SD15_instructpix2pix": {"in_channels": 8},
    "Stable_Zero123": {"in_channels": 8, "context_dim": 768},
    "SD21UnclipL": {"num_classes": "sequential", "adm_in_channels": 1536},
    "SD21UnclipH": {"num_classes": "sequential", "adm_in_channels": 2048},
    "SD_X4Upscaler": {
        "in_channels": 7, "num_classes": 1000, "disable_self_attentions": [True, False],
        "num_heads": 2, "num_head_channels": -1,
    },
    "LotusD": {"num_classes": "sequential", "adm_in_channels": 4},
    "SVD_img2vid": SVD | {"adm_in_channels": 768},
    "SV3D_u": SVD | {"adm_in_channels": 256}, "SV3D_p": SVD | {"adm_in_channels": 1280},
    "FluxInpaint": {"in_channels": 96}, "FluxSchnell": {"guidance_embed": False},
    "LongCatImage": {"vec_in_dim": None, "guidance_embed": False},
    "Flux2": {
        "in_channels": 128, "out_channels": 128, "patch_size": 1, "axes_dim": [6, 6, 6, 6],
        "vec_in_dim": None, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False,
        "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0,
        "txt_ids_dims": [3], "guidance_embed": False,
    },
    "HunyuanVideo15": HUNYUAN15,
    "HunyuanVideo15_SR_Distilled": HUNYUAN15 | {"in_channels": 98},
    "HunyuanImage21": {
        "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [12, 12],
        "vec_in_dim": None, "byt5": True, "guidance_embed": False,
    },
    "HunyuanImage21Refiner": {
        "in_channels": 256, "out_channels": 128, "patch_size": [1, 1, 1], "vec_in_dim": None,
        "guidance_embed": False,
    },
    "HunyuanVideoI2V": {"in_channels": 33}, "HunyuanVideoSkyreelsI2V": {"in_channels": 32},
    "ZImage": Z_IMAGE,
    "WAN22_T2V": {"in_dim": 48, "out_dim": 48},
    "Kandinsky5Image": {"visual_embed_dim": 64},
    "CosmosI2V": {"in_channels": 17}, "CosmosI2VPredict2": {"in_channels": 17},
}  # fmt: skip
