"""Tries whether a class of the host can be trained: found, trained, saved, loaded and compared."""

from __future__ import annotations

import inspect
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from lora2_core import RankSettings, TrainSettings, load, save
from lora2_core.host.apply import adopt, apply_lora
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import collate, make_examples
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import Draw, loss_of
from lora2_core.host.training.overwritten import is_overwriting, remembered
from lora2_core.host.training.pictures import Pictures
from lora2_core.host.training.run import Outcome, train_on
from lora2_core.host.training.timesteps import positions, sigma_at
from lora2_core.layers.adapters import Adapters, attach
from lora2_core.layers.targets import AUTO, TargetSettings
from lora2_core.training.loss import LossSettings

from .build import build, diffusion_class
from .data import data_for

WORKS, NO_DIFFUSION, REFUSED = "works", "no diffusion model", "refused"
TIMES = {"t", "timestep", "timesteps", "r", "sigma", "sigmas"}  # what a denoiser is told
STEPS, RANK, RATE = 3, 2, 1e-2
STEP = 1e-2  # of finite differences, in units of the weights
SLOPE = 0.03  # how far a slope may be from the gradient, as a share of it
ALIKE = 1e-4  # how far losses may be apart that are computed in two ways, as a share
NOTHING, SAME = 1e-6, 1e-5  # shares of the largest gradient, and of a loss: no more than rounding
CLOSE = 1e-4  # how far two forward passes may be apart, as a share of the output


@dataclass
class Row:
    """What came of a class.

    layers: how many were found by default. idle: those of them that this data's prediction does not
    depend on. why: what was refused, or at which stage it failed.
    """

    name: str
    verdict: str
    layers: int = 0
    idle: int = 0
    why: str = ""
    seconds: float = 0.0

    def facts(self) -> dict:
        return asdict(self)


def denoises(name: str) -> bool:
    """Returns whether the diffusion model of a class is told a time, as all denoisers are."""
    forward = inspect.signature(diffusion_class(name).forward)
    return bool(TIMES & forward.parameters.keys())


def tried(name: str) -> Row:
    """Returns the row of a class. Anything that goes wrong is a refusal with its reason."""
    began, stage = time.monotonic(), "build"
    try:
        if not denoises(name):
            return Row(name, NO_DIFFUSION, why="its forward pass takes no time")
        trial = Trial(name)
        for stage in ("train", "checkpointing", "gradients", "files"):
            with torch.inference_mode(stage != "build"):
                getattr(trial, stage)()
        return Row(name, WORKS, trial.layers, trial.idle, seconds=time.monotonic() - began)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Row(name, REFUSED, why=f"{stage}: {reason}", seconds=time.monotonic() - began)


class Trial:
    """One class on its way through the stages."""

    def __init__(self, name: str):
        self.model, self.lora = build(name), None
        self.latents, self.positive = data_for(name, self.model)
        self.layers = self.idle = 0
        self.losses: list[float] = []

    def train(self) -> None:
        """Trains as LoRA² Train does; every loss is finite, and the model is as it was."""
        before = {k: v.clone() for k, v in self.model.model.state_dict().items()}
        out = self.run("off")
        if len(out.losses) != STEPS or not all(map(math.isfinite, out.losses)):
            raise ValueError(f"the losses are {out.losses}")
        after = self.model.model.state_dict()
        if not all(torch.equal(v, after[k]) for k, v in before.items()):
            raise ValueError("the model was changed")
        self.lora, self.layers, self.losses = out.lora, len(out.lora.layers), out.losses

    def run(self, checkpointing: str) -> Outcome:
        """Returns what a training gives."""
        rank = RankSettings(mode="fixed", target_rank=RANK)
        training, target = TrainSettings(STEPS, RATE), TargetSettings(AUTO)
        choices = Choices(rank, training, target=target, checkpointing=checkpointing)
        out = train_on(self.model, self.latents, self.positive, choices, lambda step: None)
        if out.stopped_by is not None:
            raise out.stopped_by
        return out

    def checkpointing(self) -> None:
        """The same losses where the model's blocks are computed twice."""
        again = self.run("on").losses
        if any(abs(a - b) > ALIKE * abs(b) for a, b in zip(again, self.losses, strict=True)):
            raise ValueError(f"the losses are {again} instead of {self.losses}")

    def gradients(self) -> None:
        """Every layer has a gradient, or the prediction does not depend on it; the gradient of one
        is the slope of the loss.
        """
        with on_loan(self.model) as inner:
            pictures = Pictures.of(self.model, self.latents, self.positive)
            examples = make_examples(self.model, inner, pictures)
            modules = {n: m for n, m in inner.named_modules() if n in self.lora.layers}
            settings = RankSettings(mode="fixed", target_rank=RANK)
            adapters = attach(inner, modules, settings)
            try:
                self.check_gradients(inner, examples, adapters)
            except RuntimeError as error:  # as a run goes on: host/training/run.py
                if not is_overwriting(error):
                    raise
                for c in adapters.components.values():
                    c.lora_up.grad = c.lora_down.grad = None
                with remembered(inner.diffusion_model):
                    self.check_gradients(inner, examples, adapters)
            finally:
                adapters.detach()

    def check_gradients(self, inner, examples: list, adapters: Adapters) -> None:
        generator = torch.Generator().manual_seed(2)
        noise = torch.randn(examples[0].latent.shape, generator=generator)
        sampling = inner.model_sampling
        sigma = sigma_at(sampling, positions(sampling, LossSettings(), torch.tensor([0.4])))

        def loss() -> Tensor:
            return loss_of(inner, Draw.of(inner, examples, noise, sigma), {})

        with torch.no_grad():
            for c in adapters.components.values():
                c.lora_up.normal_(0, 0.1, generator=generator)
        loss().backward()
        slopes = {}
        for name, c in adapters.components.items():
            grads = [w.grad.flatten() for w in (c.lora_up, c.lora_down) if w.grad is not None]
            slopes[name] = float(torch.cat(grads).norm()) if grads else 0.0
        nothing = NOTHING * max(slopes.values())
        for name in [n for n, slope in slopes.items() if slope <= nothing]:
            del slopes[name]
            self.idle += 1
            if self.moves(loss, adapters.components[name]):
                raise ValueError(f"{name} has no gradient, but the loss depends on it")
        if not slopes:
            raise ValueError("no layer has a gradient")
        name = sorted(slopes, key=slopes.__getitem__)[len(slopes) // 2]
        found = self.slope(loss, adapters.components[name], slopes[name])
        if abs(found - slopes[name]) > SLOPE * slopes[name] + 1e-4:
            raise ValueError(
                f"{name}'s gradient is {slopes[name]:.4g}, the slope of the loss {found:.4g}"
            )

    @staticmethod
    @torch.no_grad()
    def moves(loss, component) -> bool:
        """Returns whether the loss changes with a layer."""
        before = float(loss())
        component.lora_up.mul_(100)
        after = float(loss())
        component.lora_up.div_(100)
        return abs(after - before) > SAME * abs(before)

    @staticmethod
    @torch.no_grad()
    def slope(loss, component, length: float) -> float:
        """Returns the slope of the loss along a layer's gradient, by central differences."""
        weights, ends = (component.lora_up, component.lora_down), []
        for step in (STEP, -2 * STEP, STEP):
            for w in weights:
                w += step / length * w.grad
            ends.append(float(loss()))
        return (ends[0] - ends[1]) / (2 * STEP)

    def files(self) -> None:
        """The host's loader takes every layer of the file, ours too, and both predict the same."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.safetensors"
            save(path, self.lora, dtype="fp32", diffusers=self.lora.origin.base.diffusers)
            tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
            stock, _ = comfy.sd.load_lora_for_models(self.model, None, tensors, 1.0, 0.0)
            if len(stock.patches) != self.layers:
                raise ValueError(
                    f"the host's loader takes {len(stock.patches)} of {self.layers} layers"
                )
            ours, _ = apply_lora(self.model, None, adopt(load(path), self.model), 1.0, 1.0)
        base, theirs, own = map(self.predicted, (self.model, stock, ours))
        size = float(base.abs().max())
        if float((theirs - own).abs().max()) > CLOSE * size:
            raise ValueError("the host's loader and ours predict differently")
        if torch.equal(base, own):
            raise ValueError("the adapter changes nothing")

    def predicted(self, model) -> Tensor:
        """Returns the denoised latent of a fixed noise."""
        comfy.model_management.load_models_gpu([model])
        try:
            with on_loan(model) as inner, torch.no_grad():
                pictures = Pictures.of(model, self.latents, self.positive)
                x0, conditions = collate(make_examples(model, inner, pictures))
                noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
                sampling = inner.model_sampling
                middle = positions(sampling, LossSettings(), torch.tensor([0.4]))
                sigma = sigma_at(sampling, middle)
                x = sampling.noise_scaling(sigma, noise, x0)
                return inner.apply_model(
                    x, sigma, transformer_options={"cond_or_uncond": [0]}, **conditions
                ).clone()
        finally:
            model.detach()
