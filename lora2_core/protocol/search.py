"""Describes a search for good settings: which settings are tried, and how they are compared. Both
come from a JSON file. All settings are drawn at random before the first trial, so that a second
start of the search draws the same ones.
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
# score -> the field of a plan that has the folder of its encoder
ENCODERS = {"dino": "dino_folder", "clip_i": "clip_folder", "clip_t": "clip_folder"}
SPACES = ("uniform", "log")
# highest number of draws for each wanted setting. After that no new setting is expected
TRIES = 100
Choices = dict[str, object]


@dataclass(frozen=True)
class Search:
    """Says which settings are tried with a plan, and by what objective they are compared. A setting
    gives a value to each of some inputs of LoRA² Train.

    settings: input -> the values to draw from: a list, {"uniform": [least, most]} or {"log":
        [least, most]}. If both ends are integers, all values are.
    objective: weights of dino, clip_i, clip_t and megabytes. The setting with the largest weighted
        sum is the best.
    count: number of settings that are tried.
    first: number of trials, which are pairs of a subject and a seed, before a setting can be
        stopped.
    reduction: after `first` trials about one in `reduction` settings goes on, and the others stop.
        This happens again each time a setting has `reduction` times as many trials as before.
    seed: seed of the draws.
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
        """Reads a search from a JSON file or a preset. Raises ValueError for unknown fields.

        source: path of the file, or name of the preset.
        """
        return cls(**read_fields(cls, "search", source, SEARCHES))

    def check(self, plan: Plan) -> None:
        """Raises ValueError unless the plan has an encoder for every score of the objective."""
        for name in self.objective.keys() & ENCODERS.keys():
            if not getattr(plan, ENCODERS[name]):
                option = ENCODERS[name].replace("_", "-")
                raise ValueError(f"objective has {name}, which needs an encoder: give --{option}.")

    def draw(self) -> dict[str, Choices]:
        """Draws the settings and returns them as name -> values. The table of trials has these
        names as methods. If there are fewer than `count` different settings, all of them are
        returned. A larger `count` keeps the settings of a smaller one and adds others.
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
        """Returns a copy of the plan whose methods are the drawn settings."""
        return replace(plan, methods=dict(self.draw()))

    def score(self, rows: Sequence[Mapping[str, float | None]]) -> float:
        """Returns the objective of one setting: the weighted sum of the mean scores of its trials.
        Raises ValueError when the sum is not finite.

        rows: rows of the table, one for each trial of the setting.
        """
        means = {n: statistics.fmean(row[n] for row in rows) for n in self.objective}
        score = sum(weight * means[name] for name, weight in self.objective.items())
        if not math.isfinite(score):
            raise ValueError(
                f"The mean scores {means} are not finite: leave such a score out of the "
                "objective, or remove the trials' rows from the table to do them again."
            )
        return score

    def ranking(self, rows: Mapping[Trial, Mapping], methods: Sequence[str]) -> list[str]:
        """Returns the methods that have trials, best first. A method with more trials comes before
        a method that was stopped earlier: their scores come from different subjects and can't be
        compared.
        """
        own = {m: rows_of(rows, m) for m in methods}
        tried = [m for m in methods if own[m]]
        return sorted(tried, key=lambda m: (-len(own[m]), -self.score(own[m])))


def check_space(name: str, space: object) -> None:
    """Raises ValueError unless a space is a list, or a range as in Search.settings."""
    if isinstance(space, list) and space:
        return
    kind, ends = next(iter(space.items()), (None, None)) if isinstance(space, dict) else (None, ())
    if kind not in SPACES or len(space) != 1 or not isinstance(ends, list) or len(ends) != 2:
        raise ValueError(
            f"The values to try for {name} are {space!r}: give a list, "
            f'{{"uniform": [least, most]}} or {{"log": [least, most]}}.'
        )
    least, most = ends
    check_range(f"the least {name}", least, 1e-12 if kind == "log" else -1e12, 1e12)
    check_range(f"the most {name}", most, least, 1e12)


def drawn(space: list | dict, random: np.random.Generator) -> object:
    """Draws a value from a space. A number that is not an integer is rounded to three digits, so
    that the name of a setting shows all of it.
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
