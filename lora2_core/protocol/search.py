"""A search for settings: what it tries, and what it calls better. A JSON file says both. The
settings are drawn at random before the search starts, so that a second start draws the same ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..checks import check_range
from .json_file import read_fields
from .plan import Plan, Trial
from .table import rows_of

SEARCHES = Path(__file__).parent / "presets" / "searches"
ENCODERS = {"dino": "dino_folder", "clip_i": "clip_folder", "clip_t": "clip_folder"}
SPACES = ("uniform", "log")
# draws for each wanted setting, after which the space counts as exhausted
TRIES = 100
Choices = dict[str, object]


@dataclass(frozen=True)
class Search:
    """Settings to try beside a plan's training, and the objective that compares them.

    settings: for each input a list to choose from, {"uniform": [least, most]} or {"log": [least,
        most]}; the values are integers where both ends are.
    objective: weights of dino, clip_i, clip_t and megabytes; the larger the weighted sum, the
    better. count: number of settings that are tried.
    first: number of trials (subjects times seeds) after which a setting may be stopped.
    reduction: about 1 in this many settings then continues, and so again after each multiple of the
        trials by it.
    seed: of the draws.
    """

    settings: dict[str, list | dict] = field(default_factory=dict)
    objective: dict[str, float] = field(default_factory=lambda: {"dino": 1.0})
    count: int = 16
    first: int = 1
    reduction: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("count", self.count, 1, 100_000, integer=True)
        check_range("first", self.first, 1, 100_000, integer=True)
        check_range("reduction", self.reduction, 2, 1000, integer=True)
        check_range("seed", self.seed, 0, 2**63 - 1, integer=True)
        if not isinstance(self.settings, dict) or not self.settings:
            raise ValueError("The search has no settings: name at least one, and what to try.")
        for name, space in self.settings.items():
            check_space(name, space)
        known = (*ENCODERS, "megabytes")
        if not isinstance(self.objective, dict) or not self.objective.keys() & ENCODERS.keys():
            raise ValueError(f"objective has no score: give weights to some of {', '.join(known)}.")
        for name, weight in self.objective.items():
            if name not in known:
                raise ValueError(f"objective has {name!r}: it may have {', '.join(known)}.")
            check_range(f"objective of {name}", weight, -1e6, 1e6)

    @classmethod
    def read(cls, source: str) -> Search:
        """Reads the search of a JSON file or a preset. Raises ValueError for unknown fields."""
        return cls(**read_fields(cls, "search", source, SEARCHES))

    def check(self, plan: Plan) -> None:
        """Raises ValueError unless the plan has an encoder for every score of the objective."""
        for name in self.objective.keys() & ENCODERS.keys():
            if not getattr(plan, ENCODERS[name]):
                option = ENCODERS[name].replace("_", "-")
                raise ValueError(f"objective has {name}, which needs an encoder: give --{option}.")

    def draw(self) -> dict[str, Choices]:
        """Draws the settings, by the names that they have in the table as methods. There are fewer
        than `count` where the space has no more. A larger count only adds settings.
        """
        random = np.random.default_rng(self.seed)
        settings: dict[str, Choices] = {}
        for _ in range(self.count * TRIES):
            own = {name: drawn(space, random) for name, space in self.settings.items()}
            settings.setdefault(", ".join(f"{name} {value}" for name, value in own.items()), own)
            if len(settings) == self.count:
                break
        return settings

    def applied(self, plan: Plan) -> Plan:
        """Returns the plan with the drawn settings as its methods."""
        return replace(plan, methods=dict(self.draw()))

    def score(self, rows: Sequence[Mapping[str, float | None]]) -> float:
        """Returns the objective of the trials of one setting: the weighted sum of their mean
        scores. Raises ValueError where that is not finite.
        """
        means = {n: statistics.fmean(row[n] for row in rows) for n in self.objective}
        score = sum(weight * means[name] for name, weight in self.objective.items())
        if not math.isfinite(score):
            raise ValueError(f"The scores are no numbers: {means}.")
        return score

    def ranking(self, rows: Mapping[Trial, Mapping], methods: Sequence[str]) -> list[str]:
        """Returns the methods that have trials, best first. Methods with more trials come before
        those that were stopped earlier, since only scores on the same subjects compare.
        """
        own = {m: rows_of(rows, m) for m in methods}
        tried = [m for m in methods if own[m]]
        return sorted(tried, key=lambda m: (-len(own[m]), -self.score(own[m])))


def check_space(name: str, space: object) -> None:
    """Raises ValueError unless values can be drawn from a space."""
    if isinstance(space, list) and space:
        return
    kind, ends = next(iter(space.items()), (None, None)) if isinstance(space, dict) else (None, ())
    if kind not in SPACES or len(space) != 1 or not isinstance(ends, list) or len(ends) != 2:
        raise ValueError(
            f"What to try of {name} is {space!r}: give a list, or one of "
            f'{{"uniform": [least, most]}} and {{"log": [least, most]}}.'
        )
    least, most = ends
    check_range(f"the least {name}", least, 1e-12 if kind == "log" else -1e12, 1e12)
    check_range(f"the most {name}", most, least, 1e12)


def drawn(space: list | dict, random: np.random.Generator) -> object:
    """Draws a value of a space. Numbers of a range are rounded to three digits, so that the name of
    a setting shows them in full.
    """
    if isinstance(space, list):
        return space[int(random.integers(len(space)))]
    ((kind, (least, most)),) = space.items()
    integer = isinstance(least, int) and isinstance(most, int)
    end = most + 1 if integer else most  # the last integer is as likely as the others
    if kind == "log":
        value = math.exp(random.uniform(math.log(least), math.log(end)))
    else:
        value = random.uniform(least, end)
    value = math.floor(value) if integer else float(f"{value:.3g}")
    return min(max(value, least), most)
