"""Ways to train that are measured beside the options of the pack, written from their papers. Each
is a context in which the pack trains that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

DELTA = 1e-6  # of the Riemannian preconditioner, as in its paper
LEAST = 0.5  # share of a rank that is left at pure noise


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Gives an object another attribute inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def preconditioned(gradient: Tensor, factor: Tensor) -> Tensor:
    """Returns gradient (factor^T factor + DELTA)^-1; gradient [n, rank], factor [m, rank]."""
    gram = factor.mT @ factor + DELTA * torch.eye(factor.shape[1])
    return torch.linalg.solve(gram, gradient, left=False)


@contextmanager
def riemannian() -> Iterator[None]:
    """Preconditions the gradient of each factor by the other one, before Adam (Zhang, Pilanci,
    arXiv 2402.02347, scaled AdamW). In fixed mode, where Lambda is 1.
    """
    from lora2_core.training.optimizers import TwoOptimizers

    step = TwoOptimizers.step

    @torch.no_grad()
    def scaled(self: TwoOptimizers) -> None:
        for up, down in zip(self.weights[::2], self.weights[1::2], strict=True):
            if up.grad is not None:
                of_up = preconditioned(up.grad, down.mT)
                down.grad = preconditioned(down.grad.mT, up).mT.contiguous()
                up.grad = of_up.contiguous()
        step(self)

    with replaced(TwoOptimizers, "step", scaled):
        yield


class Rite(torch.optim.Optimizer):
    """LoRA-RITE (Yen et al., arXiv 2410.20625) for lora_up and lora_down in turn: what it does to
    the update does not depend on the basis of the rank positions.

    With the other factor Y = U R (QR), the gradient G of a factor X becomes G R^-1, and the step
    X - lr M R^-T with the mean M of G R^-1 (V + escaped)^-1/2. V and M turn with U. Means instead
    of sums, as Adam has them.
    """

    def __init__(self, weights: list, lr: float, betas: tuple[float, float], decay: float):
        super().__init__(weights, {"lr": lr, "betas": betas, "weight_decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            weights = group["params"]
            for up, down in zip(weights[::2], weights[1::2], strict=True):
                if up.grad is None:
                    continue
                moves = (
                    self.move(up, up.grad, down.mT, group),
                    self.move(down, down.grad.mT, up, group),
                )
                for factor, move in zip((up, down), (moves[0], moves[1].mT), strict=True):
                    factor.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * move)

    def move(self, parameter: Tensor, gradient: Tensor, other: Tensor, group: dict) -> Tensor:
        """Returns the step of a factor, [n, rank], at learning rate 1."""
        basis, upper = torch.linalg.qr(other)
        if float(upper.diagonal().abs().min()) < 1e-12:  # lora_up before its first step
            return torch.zeros_like(gradient)
        own = torch.linalg.solve_triangular(upper, gradient, upper=True, left=False)
        state, (first, second) = self.state[parameter], group["betas"]
        if not state:
            rank = len(upper)
            state |= {"step": 0, "V": torch.zeros(rank, rank), "M": torch.zeros_like(own)}
            state |= {"U": basis, "escaped": 0.0}
        turn = basis.mT @ state["U"]
        turned = turn @ state["V"] @ turn.mT
        lost = torch.linalg.eigvalsh(state["V"]) - torch.linalg.eigvalsh(turned)
        state["escaped"] = second * (state["escaped"] + float(lost.abs().max()))
        state["V"] = second * turned + (1 - second) * own.mT @ own
        state["step"] += 1
        values, vectors = torch.linalg.eigh(state["V"])
        scale = (values.clamp(min=0) + state["escaped"]) / (1 - second ** state["step"])
        own = own @ vectors / (scale.sqrt() + 1e-12) @ vectors.mT
        state["M"] = first * state["M"] @ turn.mT + (1 - first) * own
        state["U"] = basis
        mean = state["M"] / (1 - first ** state["step"])
        return torch.linalg.solve_triangular(upper.mT, mean, upper=False, left=False)


@contextmanager
def rite() -> Iterator[None]:
    """Trains with LoRA-RITE in place of AdamW, in fixed mode."""
    from lora2_core.training import optimizers

    def made(weights: list, settings, decay: float) -> Rite:
        return Rite(weights, settings.learning_rate, (settings.beta1, settings.beta2), decay)

    with replaced(optimizers, "KINDS", optimizers.KINDS | {"adamw": made}):
        yield


def mask(ranks: Tensor, length: int, time: float) -> Tensor:
    """Returns which of `length` positions are trained at a time (1: pure noise), of layers of these
    ranks (Soboleva et al., arXiv 2507.05964, eq. 6).
    """
    least = (LEAST * ranks).ceil()
    kept = ((ranks - least) * (1 - time)).floor() + least
    return torch.arange(length) < kept[:, None]


@contextmanager
def timestep_ranks() -> Iterator[None]:
    """Trains fewer rank positions the more noise there is. Each picture is a pass of its own, since
    it has its own noise.
    """
    from lora2_core.host.training import setup
    from lora2_core.host.training.objective import Draw, loss_of, make_draws
    from lora2_core.training.accumulation import Part

    attach_to, made = setup.attach_to, []

    def attached(*arguments):
        made[:] = [attach_to(*arguments)]
        return made[0]

    def function(inner, examples, _prior, options, choices, *_) -> Callable:
        count = choices.batch_size
        draws, sampling = make_draws(inner, examples, 1, count, choices.loss), inner.model_sampling
        most = float(sampling.timestep(torch.as_tensor(sampling.sigma_max)))

        def loss(draw: Draw) -> Tensor:
            time, adapters = float(sampling.timestep(draw.sigma)) / most, made[0]
            ranks = torch.tensor(list(adapters.ranks.values()), dtype=torch.float32)
            adapters.refresh(lambda weights: mask(ranks, weights.shape[1], time).to(weights))
            return loss_of(inner, draw, options, choices.loss) / count

        return lambda generator: [Part(partial(loss, d), 1 / count) for d in draws(generator)]

    with replaced(setup, "attach_to", attached), replaced(setup, "loss_function", function):
        yield


PAPERS = {
    "": nullcontext,
    "riemannian": riemannian,
    "rite": rite,
    "timestep_ranks": timestep_ranks,
}
