"""Figure 15: nodes with wrong values in any of their inputs. Each answers with a result or with a
ValueError of one sentence, before training starts.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields
from random import Random

import torch

from lora2_core.host.training import setup
from lora2_core.host.training.choices import SETTINGS, Choices
from tests.reliability.figures import Figure

SKIPPED = ("LoRA2Playground",)  # has no input
SLOW = ("LoRA2Report", "LoRA2RankHeatmap", "LoRA2Info", "LoRA2Dataset")  # draw, or encode
NAN, INF = float("nan"), float("inf")
ANYTHING: list[Callable[[], object]] = [
    lambda: None, lambda: NAN, lambda: INF, lambda: -INF, lambda: 10**400, lambda: -(10**30),
    lambda: 2**63, lambda: -1, lambda: 0, lambda: 1e300, lambda: 0.5, lambda: 1, lambda: True,
    lambda: False, lambda: "", lambda: "nan", lambda: "1e999", lambda: "x" * 100_000,
    lambda: "a\0b", lambda: "\u202e", lambda: "\ud800", lambda: "../../x", lambda: "(" * 500,
    lambda: "(a+)+$", lambda: "adaptive", lambda: b"bytes", lambda: [], lambda: [[]],
    lambda: [None], lambda: {}, lambda: {"samples": None}, lambda: {"a": NAN}, lambda: object(),
    lambda: ["1", 0], lambda: torch.zeros(0), lambda: torch.full((1, 8, 8, 8), NAN),
    lambda: torch.zeros(1, 3), lambda: {"samples": torch.zeros(1, 8, 8, 8)}, lambda: int,
    lambda: {"samples": torch.zeros(2, 4, 8, 8)}, lambda: [[torch.zeros(1, 4, 16), {}]],
    lambda: [[torch.zeros(1, 4, 16), None]], lambda: [[None, {}]], lambda: [3], lambda: "auto",
    lambda: {"steps": NAN}, lambda: {"previews": 3}, lambda: {"masks": 3}, lambda: {3: 4},
    lambda: {"prior_latents": [3], "prior_positive": [4]}, lambda: {"no_such": 1},
    lambda: torch.zeros(1, 16, 16, 3), lambda: torch.zeros(4, 4),
]  # fmt: skip


class Started(Exception):
    """Training would begin here: the input was taken."""


def texts_of(kind: str) -> list[object]:
    """Values that a field of a kind might really be given."""
    return {
        "INT": [0, 1, -1, 2**31, 2**64, 3.7, "12"], "FLOAT": [0.0, -0.0, 1e-9, 1e9, NAN, "0.5", 1],
        "STRING": ["a", "to_q$", "[", "4", "attn2: 8", "*", "a\nb"],
        "BOOLEAN": [0, 1, "false", None],
        "COMBO": ["none", "adaptive", "NONE", 0, None],
    }.get(kind, [None])  # fmt: skip


def known_options() -> list[str]:
    """The name of every option that a chain may hold."""
    kinds = (Choices, *SETTINGS.values())
    return sorted({f.name for kind in kinds for f in fields(kind)} - SETTINGS.keys())


class Prompts:
    """Draws nodes with arguments, a few of them wrong. `sockets`: a good value by type."""

    def __init__(self, nodes: dict, sockets: dict[str, Callable[[], object]], seed: int):
        self.nodes, self.sockets, self.random = nodes, sockets, Random(seed)
        self.schemas = {name: node.define_schema() for name, node in nodes.items()}
        self.options = known_options()
        self.names = [n for n in nodes if n not in SKIPPED]
        self.weights = [{"LoRA2Train": 60}.get(n, 1 if n in SLOW else 12) for n in self.names]

    def good(self, field) -> object:
        """What the field would hold."""
        kind = field.get_io_type()
        if kind in self.sockets:
            return self.sockets[kind]()
        if getattr(field, "default", None) is not None:
            return field.default
        options = getattr(field, "options", None)
        return options[0] if options else ""

    def wrong(self, field) -> object:
        """What it should not, or hardly, hold."""
        kind, chance = field.get_io_type(), self.random.random()
        if kind == "LORA2_OPTIONS" and chance < 0.8:
            names = self.random.sample(self.options, self.random.choice([1, 1, 2]))
            return {name: self.random.choice(ANYTHING)() for name in names}
        if chance < 0.4:
            return self.random.choice(texts_of(kind))
        return self.random.choice(ANYTHING)()

    def draw(self) -> tuple[str, dict]:
        name = self.random.choices(self.names, self.weights)[0]
        schema = self.schemas[name]
        fields = [f for f in schema.inputs if not f.optional or self.random.random() < 0.5]
        arguments = {f.id: self.good(f) for f in fields}
        for field in self.random.sample(fields, min(len(fields), self.random.choice([1, 1, 2, 3]))):
            arguments[field.id] = self.wrong(field)
        if schema.is_input_list:
            empty = self.random.random() < 0.05
            arguments = {k: [] if empty else [v] for k, v in arguments.items()}
        return name, arguments


@contextmanager
def stopped_at_the_start():
    """Trainings raise Started once everything has been checked."""

    def begun(*_: object, **__: object) -> None:
        raise Started

    before = setup.Run
    setup.Run = begun
    try:
        yield
    finally:
        setup.Run = before


def answer(node, arguments: dict) -> str | None:
    """What is wrong with how a node answers; None when nothing is."""
    try:
        own = "validate_inputs" in vars(node)
        checks = node.validate_inputs if own else (lambda: True)
        named = checks.__code__.co_varnames[: checks.__code__.co_argcount]
        scalars = {k: v[0] if isinstance(v, list) and v else v for k, v in arguments.items()}
        said = checks(**{k: scalars[k] for k in named if k in scalars}) if set(
            named[1:]) <= set(scalars) else True  # fmt: skip
        if isinstance(said, str) and (not said or "\n" in said):
            return f"no clear sentence {said!a}"
    except Exception as error:
        return f"validate_inputs raised {type(error).__name__}: {error!a}"
    try:
        out = node.execute(**copy.copy(arguments))
        if asyncio.iscoroutine(out):
            asyncio.run(out)
    except Started:
        return None
    except ValueError as error:
        text = str(error)
        return (
            None if text and "\n" not in text and len(text) < 1000 else f"unclear: {text[:200]!a}"
        )
    except Exception as error:  # the finding
        return f"{type(error).__name__}: {str(error)[:150]!a}"
    return None


def try_prompts(prompts: Prompts, count: int) -> Counter:
    """What went wrong, by node and fault."""
    faults = Counter()
    with stopped_at_the_start():
        for _ in range(count):
            name, arguments = prompts.draw()
            if fault := answer(prompts.nodes[name], arguments):
                shown = {k: repr(v)[:60] for k, v in arguments.items()}
                faults[f"{name}: {fault}"] += 1
                prompts.last = shown
    return faults


def figure_15(prompts: Prompts, count: int) -> Figure:
    faults = try_prompts(prompts, count)
    for fault, number in faults.most_common(30):
        print(f"  {number} x {fault}")
    measured = f"{count} fuzzed prompts over {len(prompts.names)} nodes: {sum(faults.values())} "
    return Figure(15, f"{measured}uncaught exceptions", not faults and count >= 10_000)
