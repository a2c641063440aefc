"""What was chosen for a training: every option, checked when it is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ...checks import check_choice, check_range, check_switch
from ...layers.targets import TargetSettings
from ...ranks.settings import RankSettings
from ...training.loss import LossSettings
from ...training.optimizers import check_optimizer
from ...training.settings import TrainSettings
from .checkpoint_keeping import KeepSettings
from .masks import MaskSettings
from .preserving import PreserveSettings
from .previews import Preview
from .prior import PriorSettings
from .snapshots import SnapshotSettings
from .start import StartSettings
from .text_encoder import TextSettings
from .validation import ValidationSettings

# of gradients; auto: once memory was too little
CHECKPOINTING = ("auto", "on", "off", "offload")
LARGEST_BATCH = 4096  # pictures, as the form of LoRA2 Train has it
SETTINGS = {
    "rank": RankSettings, "training": TrainSettings, "target": TargetSettings,
    "loss": LossSettings, "prior": PriorSettings, "mask": MaskSettings,
    "start": StartSettings, "text": TextSettings, "keep": KeepSettings,
    "snapshots": SnapshotSettings, "validation": ValidationSettings, "preserve": PreserveSettings,
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """Holds what was chosen for a training, by what it is about.

    rank, training, target, loss, prior, mask, start, text: how the adapter is trained, and on what.
    keep, snapshots: which files are written on the way.
    validation: which pictures are held out, and what is done with their loss.
    preserve: which output of the frozen model is to stay.
    batch_size: pictures in one step, or in each part of it.
    gradient_accumulation_steps: parts of a step, whose gradients are added up.
    checkpointing: whether the model's blocks compute their activations again in the backward pass,
        which costs a third more time and saves most of the memory; `offload` also keeps what blocks
        get in RAM. `auto`: as the plan of the memory says, else from the first step on that finds
        too little.
    straight_through: whether quantised layers compute as they do while the host samples, and only
        their gradients with the dequantised weight; else both do with that.
    torch_compile: whether the model's blocks are compiled by torch.compile.
    previews: the pictures that are drawn on the way.
    """

    rank: RankSettings
    training: TrainSettings
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    target: TargetSettings = TargetSettings()
    checkpointing: str = "auto"
    previews: tuple[Preview, ...] = ()
    loss: LossSettings = LossSettings()
    prior: PriorSettings = PriorSettings()
    mask: MaskSettings = MaskSettings()
    start: StartSettings = StartSettings()
    text: TextSettings = TextSettings()
    keep: KeepSettings = KeepSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    validation: ValidationSettings = ValidationSettings()
    preserve: PreserveSettings = PreserveSettings()
    straight_through: bool = False
    torch_compile: bool = False

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Choices:
        """Returns the choices that options by name make: each option goes to the settings that have
        a field of its name. Raises ValueError for a name that no settings have.
        """
        own = [f.name for f in fields(cls) if f.name not in SETTINGS]
        names = {part: [f.name for f in fields(kind)] for part, kind in SETTINGS.items()}
        if unknown := set(options).difference(own, *names.values()):
            raise ValueError(
                f"options hold {min(map(str, unknown))!r}, which no setting has: connect LoRA2 "
                "option nodes."
            )

        def given(wanted: list[str]) -> dict:
            return {name: options[name] for name in wanted if name in options}

        parts = {part: kind(**given(names[part])) for part, kind in SETTINGS.items()}
        return cls(**parts, **given(own))

    @property
    def pictures_a_step(self) -> int:
        """Returns how many pictures a step holds, in all its parts."""
        return self.batch_size * self.gradient_accumulation_steps

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.target.resolved(self.rank.rules))
        training = self.training
        check_optimizer(training.optimizer, training.optimizer_args)
        check_choice("checkpointing", self.checkpointing, CHECKPOINTING)
        check_range("batch_size", self.batch_size, 1, LARGEST_BATCH, integer=True)
        parts = self.gradient_accumulation_steps
        check_range("gradient_accumulation_steps", parts, 1, LARGEST_BATCH, integer=True)
        check_switch("straight_through", self.straight_through)
        check_switch("torch_compile", self.torch_compile)
        if not isinstance(self.previews, tuple) or not all(
            isinstance(preview, Preview) for preview in self.previews
        ):
            raise ValueError("previews hold something else: connect LoRA2 Preview Options.")
