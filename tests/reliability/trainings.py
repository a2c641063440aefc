"""Short trainings on the playground, and everything that they must leave as it was."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import numpy as np
import torch

from lora2_core.host.training import setup
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import Outcome, train_on
from tests.host.killed import FIELDS

Interrupt = comfy.model_management.InterruptProcessingException


class Trainings:
    """The playground with four pictures of a subject: `trainings(steps=3)` trains on them."""

    def __init__(self, playground=None):
        """Loads the playground unless one is given: anything with its model, latents and
        positive.
        """
        if playground is not None:
            self.model = playground.model
            self.latents, self.positive = playground.latents, playground.positive
            return
        from lora2_core.host.playground import load_playground
        from lora2_core.playground import asset, subjects

        with torch.inference_mode():
            self.model, clip, vae = load_playground(asset.load())
            images, captions = subjects.examples("owl", 4)
            self.latents = [{"samples": vae.encode(image[None])} for image in images]
            self.positive = [clip.encode_from_tokens_scheduled(clip.tokenize(c)) for c in captions]

    def __call__(self, on_step: Callable = lambda step: None, **options: object) -> Outcome:
        data = self.model, self.latents, self.positive
        with torch.inference_mode():
            return train_on(*data, Choices.of(FIELDS | options), on_step)


def bytes_of(outcome: Outcome) -> tuple:
    """All that two trainings could differ in but the time."""
    pairs = [(layer.up, layer.down) for layer in outcome.lora.layers.values()]
    tensors = [t.numpy().tobytes() for pair in pairs for t in pair]
    return tensors, outcome.losses, outcome.lora.origin.run.history, outcome.lora.ranks


def stop_at(step: int, error: BaseException | type = Interrupt) -> Callable:
    """Raises after a step, as the host's interrupt does."""

    def on_step(done) -> None:
        if done.index == step:
            raise error

    return on_step


@contextmanager
def losses_through(change: Callable[[int, torch.Tensor], torch.Tensor]):
    """Every loss goes through change(number from 1, loss), which may also raise."""
    make = setup.make_loss

    def changed(*args: object) -> Callable:
        loss_fn, calls = make(*args), []

        def loss(generator: torch.Generator) -> torch.Tensor:
            calls.append(1)
            return change(len(calls), loss_fn(generator))

        return loss

    setup.make_loss = changed
    try:
        yield
    finally:
        setup.make_loss = make


def host_state(model) -> dict[str, object]:
    """Everything of figure 10, as values that compare."""
    import comfy.ldm.modules.attention
    import comfy.ops

    inner, backends = model.model, torch.backends
    digest = hashlib.sha256()
    for name, tensor in inner.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = list(inner.modules())
    return {
        "output": output_of(model),
        "weights": digest.hexdigest(),
        "parameters": [(n, id(p), p.requires_grad, p.grad) for n, p in inner.named_parameters()],
        "hooks": [[len(getattr(m, hook)) for hook in hooks] for m in modules],
        "forwards": ["forward" in vars(m) for m in modules],
        "training flags": [m.training for m in modules],
        "patches": (len(model.patches), len(model.backup), len(model.object_patches)),
        "injections": {k: len(v) for k, v in model.injections.items()},
        "options": repr(sorted(model.model_options)),
        "transformer options": repr(model.model_options.get("transformer_options")),
        "in_training": comfy.model_management.in_training,
        "training_fp8_bwd": getattr(comfy.model_management, "training_fp8_bwd", None),
        "streams": getattr(comfy.model_management, "NUM_STREAMS", None),
        "attention": id(comfy.ldm.modules.attention.optimized_attention),
        "fp16 sums": getattr(backends.cuda.matmul, "allow_fp16_accumulation", None),
        "tf32": (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "random": hashlib.sha256(
            torch.get_rng_state().numpy().tobytes()
            + repr((random.getstate(), np.random.get_state())).encode()
        ).hexdigest(),
    }


def output_of(model) -> bytes:
    """The denoised latents of fixed noise, as bytes."""
    generator = torch.Generator().manual_seed(1)
    x, context, y = (
        torch.randn(2, *shape, generator=generator) for shape in ((8, 8, 8), (16, 128), (320,))
    )
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        out = model.model.apply_model(x, torch.tensor([1.0, 5.0]), c_crossattn=context, y=y)
    return out.numpy().tobytes()


def changed(before: Mapping, after: Mapping) -> list[str]:
    """What is not as it was."""
    return [name for name in before if before[name] != after[name]]


def resources() -> tuple[int, int, int]:
    """(bytes held, open descriptors, threads) of this process (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
    )
