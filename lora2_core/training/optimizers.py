"""The optimizers of the weights by name, and what all of them share: the rates' own Adam, weight
decay that is counted in runs, and a running mean of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from ..ranks.modes import Fixed
from .settings import TrainSettings

FUSED = ("cpu", "cuda", "mps", "xpu")  # devices with a one-pass AdamW
PACKAGES = {"prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}
STILL = ("adafactor", "adamw8bit")  # what they remember can't follow ranks that move
ONE_RATE = ("prodigy",)  # that know one learning rate for all weights only
Parameters = list[nn.Parameter]
Group = tuple[Parameters, float]  # lora_up and lora_down in turn, times the learning rate


def check_optimizer(name: str, mode: Fixed) -> None:
    """Raises ValueError unless the optimizer is installed and can train in this mode."""
    package = PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise ValueError(
            f"optimizer {name} needs the package {package}, which is not installed: install it "
            f"with `python -m pip install {package}`, or choose adamw."
        )
    if name in STILL and mode.moves:
        raise ValueError(
            f"optimizer {name} can't follow the moving ranks of {mode.name} mode: choose adamw, "
            "adam, sgd or prodigy, or mode fixed."
        )


def fused(parameters: Sequence[nn.Parameter | dict]) -> dict[str, bool]:
    """Returns how Adam is computed fastest where the parameters, or those of their groups, are."""
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    one_pass = first.device.type in FUSED
    return {"fused": one_pass, "foreach": not one_pass}


def adamw(weights: Parameters, settings: TrainSettings, decay: float) -> torch.optim.Optimizer:
    betas = settings.beta1, settings.beta2
    options = {"lr": settings.learning_rate, "betas": betas, "weight_decay": decay}
    return torch.optim.AdamW(weights, **options, **fused(weights))


def sgd(weights: Parameters, settings: TrainSettings, decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, settings.learning_rate, momentum=settings.beta1)


def adafactor(weights: Parameters, settings: TrainSettings, decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(weights, settings.learning_rate, weight_decay=decay)


def prodigy(weights: Parameters, settings: TrainSettings, decay: float) -> torch.optim.Optimizer:
    """Without its own weight decay, which follows a step size that it finds as it goes."""
    betas, kind = (settings.beta1, settings.beta2), import_module(PACKAGES["prodigy"]).Prodigy
    options = {"use_bias_correction": True, "safeguard_warmup": True}  # as its authors advise
    return kind(weights, lr=settings.learning_rate, betas=betas, weight_decay=0.0, **options)


def adamw8bit(weights: Parameters, settings: TrainSettings, decay: float) -> torch.optim.Optimizer:
    kind = import_module(PACKAGES["adamw8bit"]).optim.AdamW8bit
    betas = settings.beta1, settings.beta2
    return kind(weights, lr=settings.learning_rate, betas=betas, weight_decay=decay)


Make = Callable[[Parameters, TrainSettings, float], torch.optim.Optimizer]
KINDS: dict[str, Make] = {
    "adamw": adamw, "adam": adamw, "sgd": sgd, "adafactor": adafactor, "prodigy": prodigy,
    "adamw8bit": adamw8bit,
}  # fmt: skip
DECAY_LEFT_OUT = ("sgd", "prodigy")  # whose weights are shrunk here
NO_SQUARES = ("sgd",)  # that do not know the mean squared gradients, by which positions are priced


class TwoOptimizers:
    """The weights' optimizer and the rates' Adam as one, in the form of torch's: param_groups
    (weights first, then rates), state, zero_grad and step.

    `groups` are the weights, lora_up and lora_down in turn, by how many times the learning rate is
    theirs; `rates` the rates and their learning rate, or None.
    `squares`: the mean of lora_up's squared gradients is kept even where the optimizer does not.
    The running mean of the weights begins with the first ones that were trained, and forgets
    faster at first: its decay is at most (1 + t) / (10 + t).
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rates: tuple[nn.Parameter, float] | None,
        settings: TrainSettings,
        *,
        squares: bool,
    ):
        self.settings, self.squares, self.steps = settings, squares, 0
        travel = sum(settings.rates())
        self.decay = settings.weight_decay / travel if travel > 0 else 0.0
        self.speeds = [speed for _, speed in groups]
        weights = groups[0][0] if self.speeds == [1.0] else self.as_groups(groups)
        self.members = [KINDS[settings.optimizer](weights, settings, self.decay)]
        self.state = self.members[0].state
        if rates is not None:
            group = {"params": [rates[0]], "lr": rates[1], "weight_decay": 0.0}
            self.members.append(torch.optim.AdamW([group], **fused([rates[0]])))
            self.members[1].state = self.state
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def as_groups(self, groups: Sequence[Group]) -> list[dict]:
        """Returns torch's groups, each with the decay that comes to the same over the run.
        ValueError for an optimizer that has one learning rate only.
        """
        name, found = self.settings.optimizer, []
        for parameters, speed in groups:
            group = {"params": parameters, "lr": self.settings.learning_rate * speed}
            if name not in DECAY_LEFT_OUT:
                group["weight_decay"] = self.decay / speed
            found.append(group)
        if name in ONE_RATE and len(groups) > 1:
            raise ValueError(
                f"optimizer {name} finds one learning rate for everything: give the text encoder "
                "the same learning_rate as LoRA2 Train, or choose adamw."
            )
        return found

    @property
    def weight_groups(self) -> list[dict]:
        """Returns torch's groups of the weights."""
        return self.param_groups[: len(self.speeds)]

    @property
    def weights(self) -> Parameters:
        """Returns lora_up and lora_down in turn; they are exchanged when ranks move."""
        return [p for group in self.weight_groups for p in group["params"]]

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the weights."""
        for group, speed in zip(self.weight_groups, self.speeds, strict=True):
            group["lr"] = rate * speed

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Makes one step of both, of the running means too."""
        self.steps += 1
        trained = [p for p in self.weights if p.grad is not None]
        if self.settings.max_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained, self.settings.max_norm)
        if self.settings.optimizer in DECAY_LEFT_OUT and self.decay > 0:
            firsts = [self.state[p]["p0"] for p in trained if "p0" in self.state.get(p, {})]
            torch._foreach_mul_(trained + firsts, 1 - self.param_groups[0]["lr"] * self.decay)
        for member in self.members:
            member.step()
        # what follows lies in the state, where it turns with the rank positions
        if self.squares and self.settings.optimizer in NO_SQUARES:
            for lora_up in self.weights[::2]:
                if lora_up.grad is not None:
                    square = lora_up.grad.square()
                    mean = self.state[lora_up].setdefault("exp_avg_sq", torch.zeros_like(square))
                    mean.lerp_(square, 1 - self.settings.beta2)
        if self.settings.ema > 0:
            decay = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
            for parameter in trained:
                mean = self.state[parameter].setdefault("ema", parameter.detach().clone())
                mean.lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def take_means(self) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Returns the weights become their running means, where there are any; returns what they
        were.
        """
        before = []
        for parameter in self.weights:
            if (mean := self.state.get(parameter, {}).get("ema")) is not None:
                before.append((parameter, parameter.detach().clone()))
                parameter.copy_(mean)
        return before
