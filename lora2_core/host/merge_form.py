"""Reads what a user writes and connects to merge LoRAs, and says what came out."""

from __future__ import annotations

import re

from ..adapter.block_weights import BlockWeights, read_block_weights
from ..adapter.conflicts import DARE, TIES
from ..adapter.merging import Merged, MergeSettings, Source
from ..adapter.origin import BaseModel
from ..charts.info import kinds_of
from ..checks import check_text
from ..paths import quoted
from .lora_stack import read_stack
from .merging import adapter_from, alike, all_names

MOST = 32  # LoRAs by sockets; a stack may hold more
SOCKETS = [f"lora_{number}" for number in range(1, MOST + 1)]
_ONE = re.compile(r"\s*(?:lora_)?(\d+)\s*:")  # at the start of a line of blocks: of this LoRA alone


def read_weights(text: str) -> list[float]:
    """Returns the numbers of a text such as `1, 0.5`; ValueError for anything else."""
    check_text("weights", text)
    found = []
    for part in text.replace(";", ",").split(",") if text.strip() else ():
        try:
            value = float(part) if part.strip() else 1.0
        except ValueError:
            value = float("nan")
        if not -100 <= value <= 100:
            raise ValueError(
                f"weights has {quoted(part.strip())}: give a number from -100 to 100 for each "
                "LoRA, such as 1, 0.5."
            )
        found.append(value)
    return found


def read_blocks(text: str) -> tuple[BlockWeights, dict[int, BlockWeights]]:
    """Returns the factors of all LoRAs, and those of single ones by their number."""
    check_text("blocks", text)
    everywhere, single = [], {}
    for line in text.splitlines():
        if match := _ONE.match(line):
            number = int(match.group(1))
            single[number] = [*single.get(number, []), line[match.end() :]]
        else:
            everywhere.append(line)
    of_one = {n: read_block_weights("\n".join([*everywhere, *own])) for n, own in single.items()}
    return read_block_weights("\n".join(everywhere)), of_one


def sources_of(
    loras: dict, stack: object, weights: str, blocks: str, model, clip
) -> tuple[list[Source], BaseModel]:
    """Returns the LoRAs to merge with their weights, and what is known of their model."""
    numbers = read_weights(weights)
    given = [(SOCKETS.index(n) + 1, n, v) for n, v in loras.items() if v is not None]
    given.sort()
    if given and len(numbers) > given[-1][0]:
        raise ValueError(
            f"weights has {len(numbers)} numbers, but the last LoRA is {given[-1][1]}: give one "
            "for each."
        )
    titled, strengths = [], []
    for number, name, value in given:
        titled.append(adapter_from(name, value))
        weight = numbers[number - 1] if number <= len(numbers) else 1.0
        strengths.append((number, weight, None))
    for entry in read_stack(stack):
        titled.append(adapter_from(entry.name, entry.name))
        strengths.append((0, entry.strength_model, entry.strength_clip))
    if not titled:
        raise ValueError("There is no LoRA to merge: connect lora_1 and lora_2, or lora_stack.")
    found = alike(titled, model, clip)
    everywhere, single = read_blocks(blocks)
    every = dict.fromkeys(name for lora in found.loras for name in all_names(lora))
    everywhere.check(every)
    for number, factors in single.items():
        if number not in [n for n, *_ in strengths]:
            raise ValueError(f"blocks has a line for lora_{number}, which is not connected.")
        factors.check(every)
    rows = zip(titled, found.loras, strengths, found.beyond, strict=True)
    sources = [
        Source(title, lora, weight, weight_clip, single.get(number, everywhere), beyond)
        for (title, _), lora, (number, weight, weight_clip), beyond in rows
    ]
    return sources, found.base


def lines_of(sources: list[Source], out: Merged, settings: MergeSettings) -> list[str]:
    """Returns what the node shows of a merge."""
    layers = len(out.lora.layers)
    lines = [
        f"{len(sources)} LoRAs, {layers} layers, {out.common} of them in more than one",
        f"{out.full_mb:.2f} MB \u2192 {out.lora.megabytes():.2f} MB, relative error "
        f"{out.error:.3f}",
    ]
    lines += [f"{source.title}: weight {source.weight:g}" for source in sources]
    kept = out.shares
    if settings.method == TIES:
        lines.append(
            f"ties: {kept.kept_share:.1%} of the entries kept, {kept.disputed_share:.1%} of the "
            f"places in conflict, {kept.agreeing_share:.1%} of the kept entries agree"
        )
    if settings.method == DARE:
        lines.append(
            f"dare: {kept.kept_share:.1%} of the entries kept and scaled by "
            f"{1 / settings.density:.3g}, {kept.disputed_share:.1%} of the places in conflict"
        )
    if len(sources) > 1 and not out.common:
        lines.append("No layer is in more than one of the LoRAs: they may be for different models.")
    if out.lora.others:
        lines.append(f"not cut: {kinds_of(out.lora)}")
    return lines
