"""The optimizers of the weights by name, and the parts that they share: an Adam for the rates nu,
weight decay that is counted in runs, and a running mean of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import compress

import torch
from torch import nn
from torch.optim import Optimizer

from ..layers.moments import OURS
from ..layers.passes import Passes
from .groups import UP
from .named_optimizers import make, switch, tried
from .settings import ONE_LEARNING_RATE, TrainSettings
from .together import Together

# devices on which torch has a fused AdamW
FUSED = ("cpu", "cuda", "mps", "xpu")
# packages that must be installed for some optimizers
PACKAGES = {"prodigy": "prodigyopt", "adamw8bit": "bitsandbytes"}
# optimizers whose moments can't follow ranks that move: they begin anew where positions turn
STILL = ("adafactor", "adamw8bit")
Parameters = list[nn.Parameter]
# parameters by name (groups.py), and their factor of the learning rate
Group = tuple[dict[str, nn.Parameter], float]


def check_optimizer(name: str, arguments: str = "") -> None:
    """Raises ValueError unless the optimizer of this name is installed and can train with these
    arguments.
    """
    if "." in name:
        tried(name, arguments)
        return
    package = PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise ValueError(
            f"optimizer {name} needs the package {package}, which is not installed: install it "
            f"with `python -m pip install {package}`, or choose adamw."
        )


def fused(parameters: Sequence[nn.Parameter | dict]) -> dict[str, bool]:
    """Returns the options of Adam that are fastest on the parameters' device; the parameters may
    come in torch's groups.
    """
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    available = first.device.type in FUSED
    return {"fused": available, "foreach": not available}


def adamw(weights: Parameters, settings: TrainSettings, weight_decay: float) -> Optimizer:
    betas = settings.beta1, settings.beta2
    options = {"lr": settings.learning_rate, "betas": betas, "weight_decay": weight_decay}
    return torch.optim.AdamW(weights, **options, **fused(weights))


def sgd(weights: Parameters, settings: TrainSettings, weight_decay: float) -> Optimizer:
    return torch.optim.SGD(weights, settings.learning_rate, momentum=settings.beta1)


def adafactor(weights: Parameters, settings: TrainSettings, weight_decay: float) -> Optimizer:
    return torch.optim.Adafactor(weights, settings.learning_rate, weight_decay=weight_decay)


def prodigy(weights: Parameters, settings: TrainSettings, weight_decay: float) -> Optimizer:
    """Returns Prodigy without its own weight decay, which would depend on the step size that it
    estimates; see DECAYED_HERE.
    """
    betas, kind = (settings.beta1, settings.beta2), import_module(PACKAGES["prodigy"]).Prodigy
    options = {"use_bias_correction": True, "safeguard_warmup": True}  # as its authors advise
    return kind(weights, lr=settings.learning_rate, betas=betas, weight_decay=0.0, **options)


def adamw8bit(weights: Parameters, settings: TrainSettings, weight_decay: float) -> Optimizer:
    kind = import_module(PACKAGES["adamw8bit"]).optim.AdamW8bit
    betas = settings.beta1, settings.beta2
    return kind(weights, lr=settings.learning_rate, betas=betas, weight_decay=weight_decay)


Make = Callable[[Parameters, TrainSettings, float], Optimizer]
KINDS: dict[str, Make] = {
    "adamw": adamw, "adam": adamw, "sgd": sgd, "adafactor": adafactor, "prodigy": prodigy,
    "adamw8bit": adamw8bit,
}  # fmt: skip
# optimizers whose weight decay TwoOptimizers computes
DECAYED_HERE = ("sgd", "prodigy")
# optimizers that treat every value as if it were alone, and may take many parameters for one
ELEMENTWISE = ("adamw", "adam")
# optimizers that keep no mean squared gradients of every weight; the auction needs lora_up's
NO_SQUARES = ("sgd", *STILL)


class TwoOptimizers:
    """The weights' optimizer and the Adam of the rates nu in one, with torch's param_groups
    (weights first, then nu), state, zero_grad and step.

    groups: the weights by name, with their factors of the learning rate.
    rates: the parameter of nu and its learning rate; None where nu is not trained. paths: of the
    layers, which know what lies behind each other.
    squares: the mean squared gradients of lora_up are kept even if the optimizer keeps none.

    weight_decay is that of torch's AdamW: the decay of a complete run, divided by the sum of its
    learning rates. The running mean of the weights starts at the weights of the first step, and
    follows faster at first: its decay is at most (1 + t) / (10 + t) after t steps.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rates: tuple[nn.Parameter, float] | None,
        settings: TrainSettings,
        paths: Passes,
        *,
        squares: bool,
    ):
        self.paths = paths
        self.settings, self.squares, self.steps = settings, squares, 0
        total = sum(settings.rates())
        self.weight_decay = settings.weight_decay / total if total > 0 else 0.0
        self.speeds = [speed for _, speed in groups]
        self.are_ups = [name.startswith(UP) for named, _ in groups for name in named]
        weights = list(groups[0][0].values()) if self.speeds == [1.0] else self.as_groups(groups)
        self.members = [self.member(weights)]
        self.state = self.members[0].state
        elementwise = settings.optimizer in ELEMENTWISE
        self.together = Together(
            self.members[0], lambda: paths.sheets.laid, elementwise=elementwise
        )
        if rates is not None:
            group = {"params": [rates[0]], "lr": rates[1], "weight_decay": 0.0}
            self.members.append(torch.optim.AdamW([group], **fused([rates[0]])))
            self.members[1].state = self.state
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def member(self, weights: Parameters) -> Optimizer:
        """Returns the optimizer of the weights."""
        settings, self.averages = self.settings, False
        self.keeps_squares, self.square = settings.optimizer not in NO_SQUARES, "exp_avg_sq"
        self.begins_anew = settings.optimizer in STILL
        if "." not in settings.optimizer:
            return KINDS[settings.optimizer](weights, settings, self.weight_decay)
        name, arguments = settings.optimizer, settings.optimizer_args
        found = tried(name, arguments)
        self.keeps_squares, self.averages = found.squares, found.averages
        self.square = "mean_square" if found.taken else "exp_avg_sq"
        self.begins_anew = not found.follows
        member = make(name, arguments, weights, settings.learning_rate)
        switch(member, "train")
        return member

    def as_groups(self, groups: Sequence[Group]) -> list[dict]:
        """Returns the groups in torch's form, each with the weight_decay that shrinks it as much
        over the run. Raises ValueError for several groups if the optimizer has one learning rate.
        """
        name, torch_groups = self.settings.optimizer, []
        for named, speed in groups:
            group = {"params": list(named.values()), "lr": self.settings.learning_rate * speed}
            if name in KINDS and name not in DECAYED_HERE:
                group["weight_decay"] = self.weight_decay / speed
            torch_groups.append(group)
        if name in ONE_LEARNING_RATE and len(groups) > 1:
            raise ValueError(
                f"optimizer {name} finds one learning rate for everything: give the text encoder "
                "the same learning_rate as LoRA2 Train, or choose adamw."
            )
        return torch_groups

    @property
    def weight_groups(self) -> list[dict]:
        """Returns the param_groups of the weights."""
        return self.param_groups[: len(self.speeds)]

    @property
    def weights(self) -> Parameters:
        """Returns the parameters in the order of their groups; others replace them when ranks
        move.
        """
        return [p for group in self.weight_groups for p in group["params"]]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of the weights; each group has its factor of it."""
        for group, speed in zip(self.weight_groups, self.speeds, strict=True):
            group["lr"] = learning_rate * speed

    def gradients(self) -> list[torch.Tensor]:
        """Returns all gradients that there are."""
        rates = [p for member in self.members[1:] for g in member.param_groups for p in g["params"]]
        return [p.grad for p in self.together.parameters + rates if p.grad is not None]

    def zero_grad(self) -> None:
        """Removes all gradients."""
        self.together.zero_grad()
        for member in self.members[1:]:
            member.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Makes one step of both optimizers and of the running means."""
        self.steps += 1
        with self.together.as_one():
            self.step_of_weights()
        for member in self.members[1:]:
            member.step()
        self.paths.forget()  # weights that are parts of others don't count how often they change

    def step_of_weights(self) -> None:
        """Makes one step of the weights and their running means."""
        trained = [p for p in self.weights if p.grad is not None]
        if self.settings.max_norm > 0:
            torch.nn.utils.clip_grad_norm_(trained, self.settings.max_norm)
        if self.settings.optimizer in DECAYED_HERE and self.weight_decay > 0:
            firsts = [self.state[p]["p0"] for p in trained if "p0" in self.state.get(p, {})]
            learning_rate = self.param_groups[0]["lr"] / self.speeds[0]
            torch._foreach_mul_(trained + firsts, 1 - learning_rate * self.weight_decay)
        ours = self.take_ours() if self.begins_anew else {}
        self.members[0].step()
        for parameter, kept in ours.items():
            self.state[parameter] |= kept
        # the following means lie in the state, where they turn with the rank positions
        if self.squares and not self.keeps_squares:
            for lora_up in compress(self.weights, self.are_ups):
                if lora_up.grad is not None:
                    square = lora_up.grad.square()
                    mean = self.state[lora_up].setdefault(self.square, torch.zeros_like(square))
                    mean.lerp_(square, 1 - self.settings.beta2)
        if self.settings.ema > 0:
            ema_decay = min(self.settings.ema, (1 + self.steps) / (10 + self.steps))
            for parameter in trained:
                mean = self.state[parameter].setdefault("ema", parameter.detach().clone())
                mean.lerp_(parameter.detach(), 1 - ema_decay)

    def take_ours(self) -> dict[nn.Parameter, dict]:
        """Takes away what is ours of the weights of which the optimizer keeps nothing more: it
        begins anew where there is no state.
        """
        anew = [p for p in self.weights if p in self.state and self.state[p].keys() <= OURS]
        return {parameter: self.state.pop(parameter) for parameter in anew}

    @torch.no_grad()
    def take_means(self) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Replaces the weights by their running means, if there are any, or by those that a
        schedule-free optimizer gives. Returns each replaced parameter with its value before.
        """
        if self.averages and self.steps:
            before = [(p, p.detach().clone()) for p in self.weights]
            switch(self.members[0], "eval")
            for group in self.weight_groups:  # the values before come back, or the run is over
                group["train_mode"] = True
            return before
        before = []
        for parameter in self.weights:
            if (mean := self.state.get(parameter, {}).get("ema")) is not None:
                before.append((parameter, parameter.detach().clone()))
                parameter.copy_(mean)
        return before
