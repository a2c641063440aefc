"""The names that files call the layers of a model by, and the weights, or the rows of weights, that
they mean.

Some programs split a weight that others keep in one: q, k and v are three layers in one file, and
the rows of one layer `qkv` in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Target:
    """Says which weight a name means.

    path: module path of the weight. start, rows: the part of its rows that is meant; rows is None
    for all of them. swapped: the two halves of the rows are the other way round.
    """

    path: str
    start: int = 0
    rows: int | None = None
    swapped: bool = False

    @property
    def whole(self) -> bool:
        return self.rows is None and not self.swapped


@dataclass(frozen=True)
class ModelNames:
    """Holds all names of a model's layers.

    targets: name -> what it means; those that ComfyUI's own loader reads come first. known: how
    many these are. rows: path of a weight -> its rows.
    """

    targets: Mapping[str, Target]
    known: int
    rows: Mapping[str, int]

    @cached_property
    def by_path(self) -> dict[str, list[tuple[str, Target]]]:
        """Returns path -> its names that ComfyUI reads, with what they mean."""
        found: dict[str, list[tuple[str, Target]]] = {}
        for (name, target), _ in zip(self.targets.items(), range(self.known), strict=False):
            found.setdefault(target.path, []).append((name, target))
        return found

    def reads(self, name: str, target: Target) -> bool:
        """Returns whether ComfyUI's own loader takes the name for this weight."""
        return (name, target) in self.by_path.get(target.path, ())

    def tiles(self, path: str, beginnings: tuple[str, ...]) -> list[tuple[str, Target]]:
        """Returns names with one of these beginnings that mean the rows of a weight together, each
        row once; [] where there are none. Names of parts go before a name of all.
        """
        names = [(n, t) for n, t in self.by_path.get(path, ()) if n.startswith(beginnings)]
        parts = {t.start: (n, t) for n, t in reversed(names) if t.rows}
        found, row = [], 0
        while row in parts:
            found.append(parts[row])
            row += parts[row][1].rows
        if found and row == self.rows.get(path):
            return found
        whole = [(name, target) for name, target in names if target.rows is None]
        return whole[-1:] if self.is_second_flux else whole[:1]

    @cached_property
    def is_second_flux(self) -> bool:
        """Returns whether the model is a Flux 2, which diffusers gives other names than Flux: the
        host has both for both, those of Flux 2 last. Its single blocks have other parts.
        """
        names = [
            n for path in self.by_path if path.endswith(".linear1") for n, _ in self.by_path[path]
        ]
        rows = {self.rows.get(path, 0) for path in self.by_path if path.endswith(".linear1")}
        ends = {t.start + t.rows for p in self.by_path for _, t in self.by_path[p]
                if t.rows and p.endswith(".linear1")}  # fmt: skip
        return any(n.endswith("to_qkv_mlp_proj") for n in names) and not rows & ends
