"""What a search for settings tries and what it calls better: a JSON file, and the methods that it
comes to. They are drawn at random before the search starts, so that a second start draws the same.
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
TRIES = 100  # draws for each setting wanted, before the space counts as exhausted
Choices = dict[str, object]


@dataclass(frozen=True)
class Search:
    """Settings to try beside a plan's training, and their worth.

    settings: of each a list to choose from, {"uniform": [least, most]} or {"log": [least, most]};
        whole numbers where both ends are.
    objective: weights of dino, clip_i, clip_t and megabytes; their sum is to be large.
    count: how many settings are tried.
    first: on so many subjects x seeds before one may be stopped.
    reduction: about one in so many goes on then, and again after so many times as many trials.
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
        """Of a JSON file or a preset's name; ValueError for unknown fields."""
        return cls(**read_fields(cls, "search", source, SEARCHES))

    def check(self, plan: Plan) -> None:
        """Raises ValueError where the plan has no encoder for a score of the objective."""
        for name in self.objective.keys() & ENCODERS.keys():
            if not getattr(plan, ENCODERS[name]):
                option = ENCODERS[name].replace("_", "-")
                raise ValueError(f"objective has {name}, which needs an encoder: give --{option}.")

    def draw(self) -> dict[str, Choices]:
        """Settings by the name that the table has for them; fewer than `count` where the space has
        no more. The first of many are those of few.
        """
        random, found = np.random.default_rng(self.seed), {}
        for _ in range(self.count * TRIES):
            own = {name: drawn(space, random) for name, space in self.settings.items()}
            found.setdefault(", ".join(f"{name} {value}" for name, value in own.items()), own)
            if len(found) == self.count:
                break
        return found

    def applied(self, plan: Plan) -> Plan:
        """Returns the plan with the settings to try as its methods."""
        return replace(plan, methods=dict(self.draw()))

    def score(self, rows: Sequence[Mapping[str, float | None]]) -> float:
        """Returns the objective of trials of one setting: the weighted sum of their means.
        ValueError where that is no number.
        """
        means = {n: statistics.fmean(row[n] for row in rows) for n in self.objective}
        score = sum(weight * means[name] for name, weight in self.objective.items())
        if not math.isfinite(score):
            raise ValueError(f"The scores are no numbers: {means}.")
        return score

    def ranking(self, rows: Mapping[Trial, Mapping], methods: Sequence[str]) -> list[str]:
        """Returns the methods that have trials, best first: those tried on more subjects before
        those that were stopped earlier, since only equal subjects compare.
        """
        own = {m: rows_of(rows, m) for m in methods}
        tried = [m for m in methods if own[m]]
        return sorted(tried, key=lambda m: (-len(own[m]), -self.score(own[m])))


def check_space(name: str, space: object) -> None:
    """Raises ValueError unless a value can be drawn from it."""
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
    """Returns a value to try; numbers of a range have three digits, so that their name tells them
    whole.
    """
    if isinstance(space, list):
        return space[int(random.integers(len(space)))]
    ((kind, (least, most)),) = space.items()
    whole = isinstance(least, int) and isinstance(most, int)
    end = most + 1 if whole else most  # the last whole number is as likely as the others
    if kind == "log":
        value = math.exp(random.uniform(math.log(least), math.log(end)))
    else:
        value = random.uniform(least, end)
    value = math.floor(value) if whole else float(f"{value:.3g}")
    return min(max(value, least), most)
