"""What a run is, and the ledger that says which runs are done: one JSON line for each adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.ranks.versions import version_of

LEDGER = "runs.jsonl"
Cut = tuple[str, float]
ATTENTION = "attention"  # the layers of all runs that do not say which
PLAYGROUND, FLOW = "playground", "flow"  # the base of all runs that do not say which; the other


@dataclass(frozen=True)
class Run:
    """One training run and what is cut from its adapter.

    pictures: a subject or a style set. method: `base` (nothing is trained), or a mode of
    RankSettings. rank: target rank; share: of the bytes that this rank has, as the size allowed
    (1: the rank itself is the target). rate: learning rate. own: how many of the base's own
    pictures are measured. samples: also draw and judge samples. cuts: (way, size) of each further
    adapter that is cut from the trained one and measured; the size is the uniform rank whose bytes
    it may have, for `truncated` the share that stays. layers: the kind of layers that is trained.
    base: the model that is trained, PLAYGROUND or FLOW (tests/playground/flow.py).
    """

    pictures: str
    method: str
    rank: int = 0
    rate: float = 0.0
    seed: int = 0
    steps: int = 200
    share: float = 1.0
    own: int = 64
    samples: bool = False
    cuts: tuple[Cut, ...] = ()
    layers: str = ATTENTION
    base: str = PLAYGROUND

    def configs(self) -> list[dict]:
        """The full configuration of each adapter that the run gives, its own first."""
        common = {k: v for k, v in asdict(self).items() if k != "cuts"}
        if self.layers == ATTENTION:  # rows of before there was a choice stay valid
            del common["layers"]
        if self.base == PLAYGROUND:
            del common["base"]
        return [common | {"cut": None}] + [common | {"cut": list(cut)} for cut in self.cuts]

    @classmethod
    def from_json(cls, text: str) -> Run:
        values = json.loads(text)
        return cls(**values | {"cuts": tuple(tuple(cut) for cut in values["cuts"])})

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def key_of(config: dict) -> str:
    return json.dumps(config, sort_keys=True)


class Ledger:
    """The rows of a results folder; later ones replace earlier ones of the same configuration.

    A row counts when its version is that of the sources now, or its method is one of `reuse` and
    there is no such row.
    """

    def __init__(self, folder: Path, reuse: Iterable[str] = ()):
        self.path, self.reuse = folder / LEDGER, tuple(reuse)
        self.rows: dict[str, dict] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                self._keep(line)

    def _keep(self, line: str) -> None:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a line that an interruption cut short
            return
        method, key = row["config"]["method"], key_of(row["config"])
        current = row["version"] == version_of(method)
        if current or (method in self.reuse and not self._has_current(key)):
            self.rows[key] = row

    def _has_current(self, key: str) -> bool:
        row = self.rows.get(key)
        return row is not None and row["version"] == version_of(row["config"]["method"])

    def add(self, rows: list[dict]) -> None:
        """Writes all rows of a run at once."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.exists() else b""
        with self.path.open("a") as file:
            file.write(("\n" if before and not before.endswith(b"\n") else "") + text)
        for line in text.splitlines():
            self._keep(line)

    def done(self, run: Run) -> bool:
        return all(key_of(config) in self.rows for config in run.configs())

    def of(self, run: Run) -> list[dict]:
        """The rows of a run that are there, its own first."""
        keys = [key_of(config) for config in run.configs()]
        return [self.rows[key] for key in keys if key in self.rows]
