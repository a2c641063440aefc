"""Layers of LoRA files as the programs themselves make them: lycoris-lora and peft, which lie
beside the shared environment (`nox -s files` brings them). Without them, OTHERS is {}.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from .every_file import KINDS, Make, draw

RANK, ALPHA = 3, 2.0
# algorithm -> its options
LYCORIS: dict[str, list[Mapping]] = {
    "lora": [{}, {"rs_lora": True}, {"use_tucker": True}, {"weight_decompose": True},
             {"weight_decompose": True, "wd_on_out": False}, {"use_scalar": True}],
    "loha": [{}, {"use_tucker": True}, {"weight_decompose": True}, {"rs_lora": True}],
    "lokr": [{}, {"lora_dim": 1, "factor": 2}, {"full_matrix": True},
             {"lora_dim": 1, "decompose_both": True, "factor": 4}, {"weight_decompose": True},
             {"lora_dim": 1, "use_tucker": True}, {"unbalanced_factorization": True}],
    "full": [{}], "norm": [{}], "ia3": [{}], "glora": [{}], "dylora": [{"block_size": 1}],
    "diag-oft": [{}, {"constraint": 0.5}, {"rescaled": True}], "boft": [{}, {"rescaled": True}],
    "tlora": [{}],
}  # fmt: skip
PEFT: dict[str, list[Mapping]] = {
    "LoraConfig": [{"lora_alpha": 5}, {"lora_alpha": 5, "use_rslora": True}, {"use_dora": True},
                   {"lora_bias": True}],
    "LoHaConfig": [{}, {"use_effective_conv2d": True}],
    "LoKrConfig": [{}, {"decompose_both": True}, {"use_effective_conv2d": True}],
    "OFTConfig": [{"r": 0, "oft_block_size": 4}], "HRAConfig": [{}],
    "IA3Config": [{"feedforward_modules": []}], "VeraConfig": [{}], "LNTuningConfig": [{}],
}  # fmt: skip


def layer(shape: torch.Size) -> nn.Module | None:
    """A layer whose weight has this shape."""
    if len(shape) == 1:
        return nn.LayerNorm(shape[0])
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    sides = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    return sides[len(shape)](shape[1], shape[0], tuple(shape[2:])) if len(shape) in sides else None


def filled(state: Mapping[str, Tensor], g: torch.Generator) -> dict[str, Tensor]:
    """The tensors with values as if they had been trained; single numbers stay."""
    return {
        k: t.detach() if t.numel() < 2 or not t.is_floating_point()
        else draw(g, *t.shape) + (k.endswith(("rescale", "dora_scale")) or 0.0)
        for k, t in state.items()
    }  # fmt: skip


def by_lycoris(algorithm: str, options: Mapping) -> Make:
    """As lycoris-lora writes a layer."""

    def make(base: str, shape: torch.Size, g: torch.Generator) -> dict[str, Tensor] | None:
        from lycoris.modules import NormModule
        from lycoris.wrapper import network_module_dict

        if (len(shape) == 1) != (algorithm == "norm") or (original := layer(shape)) is None:
            return None
        sizes = {} if algorithm == "norm" else {"lora_dim": RANK, "alpha": ALPHA}
        kind = (network_module_dict | {"norm": NormModule})[algorithm]
        try:
            module = kind(base, original, 1.0, **sizes | options)
        except (ValueError, NotImplementedError, AssertionError, RuntimeError):
            return None  # such a layer has no change of this kind there
        return filled({f"{base}.{k}": t for k, t in module.state_dict().items()}, g)

    return make


def by_peft(config: str, options: Mapping) -> Make:
    """As peft writes a layer."""

    def make(base: str, shape: torch.Size, g: torch.Generator) -> dict[str, Tensor] | None:
        import peft

        if (original := layer(shape)) is None:
            return None
        size = {} if config in ("IA3Config", "LNTuningConfig", "OFTConfig") else {"r": RANK}
        try:
            wanted = getattr(peft, config)(**size | {"target_modules": ["x"]} | options)
            model = peft.get_peft_model(nn.ModuleDict({"x": original}), wanted)
        except (ValueError, NotImplementedError, AssertionError, RuntimeError, TypeError):
            return None
        found = peft.get_peft_model_state_dict(model)
        before = "base_model.model.x"
        return filled({base + k.removeprefix(before): t for k, t in found.items()}, g) or None

    return make


def said(options: Mapping) -> str:
    return "".join(f", {k}" if v is True else f", {k} {v}" for k, v in options.items())


def others() -> dict[str, Make]:
    """Name -> what makes it, for all programs that are there."""
    makers: list[tuple[str, str, dict[str, list[Mapping]], Callable]] = [
        ("lycoris", "lycoris-lora", LYCORIS, by_lycoris), ("peft", "peft", PEFT, by_peft),
    ]  # fmt: skip
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    found: dict[str, Make] = {}
    for package, title, kinds, by in makers:
        if find_spec(package) is None:
            continue
        for name, variants in kinds.items():
            for options in variants:
                made = by(name, options)
                found[f"{name} of {title}{said(options)}"] = torch.inference_mode(False)(
                    torch.no_grad()(made)
                )
    return found


OTHERS = others()
ALL = KINDS | OTHERS
