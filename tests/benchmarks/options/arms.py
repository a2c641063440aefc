"""The ways to train that are compared, and their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.benchmarks.ranks.pictures import TUNING

FIELDS = {
    "steps": 100, "batch_size": 4, "target_rank": 4, "max_rank": 32, "layers": "all in blocks",
}  # fmt: skip
SEEDS = (0, 1)
RATES = (5e-3, 1e-2, 2e-2)
PLAIN = "adamw"


@dataclass(frozen=True)
class Arm:
    """A way to train: options of a mode, and what is no option of the pack (papers.py).

    rates: learning rates that are tried; none: the one of the plain arm of the mode. tested:
    whether it is run on the test subjects; what is clearly above the plain arm on the tuning
    subjects is not.
    """

    mode: str
    name: str
    rates: tuple[float, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    paper: str = ""
    tested: bool = True

    @property
    def key(self) -> str:
        return f"{self.mode}, {self.name}"

    @property
    def plain(self) -> str:
        """Returns the key of the arm that it is compared with."""
        return f"{self.mode}, {PLAIN}"


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    rate: float
    subject: str
    seed: int


BY_TIMESTEP = "rank by timestep (T-LoRA)"
TUNED = [
    Arm("fixed", PLAIN, RATES),
    Arm("fixed", "LoRA+, ratio 4", (2.5e-3, 5e-3, 1e-2), {"loraplus_lr_ratio": 4.0}),
    Arm(
        "fixed",
        "LoRA+, ratio 16",
        (1.25e-3, 2.5e-3, 5e-3),
        {"loraplus_lr_ratio": 16.0},
        tested=False,
    ),
    Arm("fixed", BY_TIMESTEP, RATES[1:], paper="timestep_ranks", tested=False),
    Arm("fixed", "Riemannian preconditioning", RATES, paper="riemannian"),
    Arm("fixed", "LoRA-RITE", (2e-2, 6e-2, 2e-1), paper="rite"),
    Arm("adaptive", PLAIN, RATES),
    Arm("adaptive", "LoRA+, ratio 4", (2.5e-3, 5e-3, 1e-2), {"loraplus_lr_ratio": 4.0}),
    Arm("adaptive", BY_TIMESTEP, RATES[1:2], paper="timestep_ranks", tested=False),
]
REGULARISERS = [
    Arm("adaptive", f"{option} {value:g}", (), {option: value})
    for option, value in {
        "rank_dropout": 0.1, "module_dropout": 0.1, "caption_dropout": 0.1,
        "scale_weight_norms": 1.0, "preserve_weight": 1.0,
    }.items()
]  # fmt: skip
OPTIMIZERS = [
    Arm("adaptive", f"optimizer {name}", rates, {"optimizer": name})
    for name, rates in {
        "adam": RATES, "adamw8bit": RATES, "prodigy": (0.5, 1.0, 2.0), "sgd": (0.1, 0.5, 2.5),
        "adafactor": (0.03, 0.1, 0.3), "torch.optim.RAdam": RATES, "torch.optim.NAdam": RATES,
    }.items()
]  # fmt: skip
ARMS = {arm.key: arm for arm in (*TUNED, *REGULARISERS, *OPTIMIZERS)}


def tuning(arm: Arm, rate: float) -> list[Run]:
    """Returns the runs by which a learning rate is judged."""
    return [Run(arm.key, rate, subject, 0) for subject in TUNING]
