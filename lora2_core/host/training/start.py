"""A run that goes on from a finished adapter, of whatever trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from ...adapter.expressing import expressed
from ...adapter.lora import RankedLora
from ...adapter.origin import Note
from ...checks import check_range, check_switch
from ...layers.layer import is_adaptable
from ...layers.starting import fingerprint
from ...paths import quoted
from ...saying import log
from ..apply import adopt

# shown in the node; locales/*/main.json has them in other languages
START_NOTE = "Of the LoRA to start from:"
NO_PAIRS_NOTE = (
    "{0} of its changes are no low-rank pairs, the first is of kind {1}: the training leaves them "
    "out."
)
LEFT_NOTE = (
    "{0} of the {1} layers of the LoRA to start from are not trained here, and what they learned "
    "is left out. The first is {2}."
)


@dataclass(frozen=True)
class StartSettings:
    """Holds where a run begins.

    start_from: a finished adapter, None for the model as it is.
    start_strength: its update is multiplied by this first.
    adopt_layers: whether its layers that are not among the chosen ones are trained too, else left
        out.
    """

    start_from: RankedLora | None = field(default=None, compare=False, repr=False)
    start_strength: float = 1.0
    adopt_layers: bool = True

    def __post_init__(self) -> None:
        check_range("strength", self.start_strength, 0.01, 10)
        check_switch("adopt_layers", self.adopt_layers)
        if self.start_from is not None and not isinstance(self.start_from, RankedLora):
            raise ValueError(
                f"The adapter to start from is {quoted(self.start_from)}: connect LoRA2 Start "
                "Options."
            )

    def adapter(self, model, clip=None) -> RankedLora | None:
        """Returns the pairs of the adapter at its strength, its layers named as in the model and
        its text encoder, and parts of one weight joined; None without one. Raises ValueError where
        it doesn't fit the model.
        """
        if self.start_from is None:
            return None
        try:
            lora = replace(adopt(self.start_from, model, clip), others={})
        except ValueError as error:
            raise ValueError(f"Of the adapter to start from: {error}") from error
        if not lora.layers:
            kinds = ", ".join(sorted({change.kind for change in self.start_from.others.values()}))
            raise ValueError(
                f"The adapter to start from has no low-rank pairs ({kinds or 'no changes'}): LoRA2 "
                "Compress makes pairs of other kinds."
            )
        lora = expressed(lora, "whole", {}).lora
        if self.start_strength == 1:
            return lora
        scaled = {n: replace(y, up=y.up * self.start_strength) for n, y in lora.layers.items()}
        return replace(lora, layers=scaled)

    def layers(
        self,
        chosen: Mapping[str, nn.Module],
        lora: RankedLora | None,
        modules: Mapping[str, nn.Module],
        say: Callable[[Note], None] = lambda note: None,
    ) -> dict[str, nn.Module]:
        """Returns the layers to train by name: the chosen ones, and those of the adapter to start
        from. `modules` are all modules that layers are taken from. `say` is called with a note
        where layers are left out that nobody chose to leave out.
        """
        if lora is None:
            return dict(chosen)
        given = {name for name, layer in lora.layers.items() if layer.rank}
        wanted = chosen.keys() | given if self.adopt_layers else chosen.keys()
        layers = {n: m for n, m in modules.items() if n in wanted and is_adaptable(m)}
        if left := given - layers.keys():
            log.warning(
                "LoRA2 Train leaves out %d of the %d layers of the adapter to start from, the "
                "first is %s: they are not trained here.",
                len(left), len(given), min(left),
            )  # fmt: skip
            if self.adopt_layers:
                say([LEFT_NOTE, len(left), len(given), min(left)])
        return layers

    def notes(self) -> list[Note]:
        """Returns what the user is told of the adapter to start from."""
        if self.start_from is None:
            return []
        told = list(self.start_from.origin.file.notes)
        if others := self.start_from.others:
            told.append([NO_PAIRS_NOTE, len(others), next(iter(others.values())).kind])
        return [START_NOTE, *told] if told else []

    @cached_property
    def facts(self) -> dict:
        """Returns what tells one start from another, {} without one."""
        if self.start_from is None:
            return {}
        return {
            "start": fingerprint(self.start_from),
            "start_strength": self.start_strength,
            "adopt_layers": self.adopt_layers,
        }
