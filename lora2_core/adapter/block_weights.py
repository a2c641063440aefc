"""Weights of an adapter's layers by block of the model, as a user writes them.

`down=1, mid=0.5, up.2=0` gives factors to blocks, by the names that LoRA² Layers and the heatmap
show: `down 4, block 3` is `down.4.block.3`, and `down` means all that begin so. A name may also be
any words of a layer's path, such as `double_blocks.3` or `attn2`; `0-5` means these numbers. `text`
means the text encoders. The last one that fits counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..paths import quoted
from .layout import position
from .model_order import of_text_encoder

LARGEST = 100.0  # of a factor, the range of the host's own strengths
MOST_ENTRIES = 1000  # of a text: more than any model has layers
MOST_LISTED = 12  # blocks that an error names
EXAMPLE = "down=1, mid=0.5, up.2=0"
TEXT = "text"
_RANGE = re.compile(r"(\d{1,4})-(\d{1,4})")


@dataclass(frozen=True)
class BlockWeights:
    """Holds (words of a block's name, factor), in the order of the text."""

    entries: tuple[tuple[tuple[str, ...], float], ...] = ()

    def given(self, layer: str) -> float | None:
        """Returns the factor of a layer, None where no entry fits."""
        fitting = [factor for wanted, factor in self.entries if means(wanted, layer)]
        return fitting[-1] if fitting else None

    def factor(self, layer: str) -> float:
        """Returns the factor of a layer, 1 where no entry fits."""
        given = self.given(layer)
        return 1.0 if given is None else given

    def check(self, layers: Iterable[str]) -> None:
        """Raises ValueError where an entry fits none of the layers."""
        names = list(layers)
        for wanted, _ in self.entries:
            if not any(means(wanted, name) for name in names):
                rows = dict.fromkeys(position(name)[0] for name in names)
                found = [row for row in rows if row]
                more = ", \u2026" if len(found) > MOST_LISTED else ""
                raise ValueError(
                    f"blocks has {'.'.join(wanted)}, which fits no layer: there are "
                    f"{'; '.join(found[:MOST_LISTED])}{more}."
                )


def words_of(text: str) -> list[str]:
    """Returns the words and numbers of a name."""
    return [word for word in re.split(r"[\s._,]+", text.lower()) if word]


def means(wanted: Sequence[str], layer: str) -> bool:
    """Returns whether the words of an entry mean a layer."""
    if list(wanted) == [TEXT]:
        return of_text_encoder(layer)
    row, path = words_of(position(layer)[0]), words_of(layer)
    if len(row) >= len(wanted) and all(map(fits, wanted, row)):
        return True
    starts = range(len(path) - len(wanted) + 1)
    sides = wanted[0] in ("up", "down", "mid")  # words of a row: in a path, lora_up is no block
    return not sides and any(all(map(fits, wanted, path[start:])) for start in starts)


def fits(wanted: str, word: str) -> bool:
    """Returns whether a word is the wanted one, or one of a range of numbers."""
    if span := _RANGE.fullmatch(wanted):
        return word.isdecimal() and int(span[1]) <= int(word) <= int(span[2])
    return word == wanted


def read_block_weights(text: str) -> BlockWeights:
    """Returns the factors of a text such as EXAMPLE; ValueError in one sentence for a text that
    can't be read.
    """
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    if len(parts) > MOST_ENTRIES:
        raise ValueError(f"blocks has {len(parts)} entries: give {MOST_ENTRIES} at most.")
    entries = []
    for part in parts:
        name, sign, value = part.partition("=")
        if not sign or not words_of(name):
            raise ValueError(f"blocks has {quoted(part)}: write it as in {EXAMPLE}.")
        try:
            factor = float(value)
        except ValueError:
            factor = math.nan
        if not -LARGEST <= factor <= LARGEST:
            raise ValueError(
                f"blocks has {quoted(part)}: give a number from {-LARGEST:g} to {LARGEST:g}."
            )
        entries.append((tuple(words_of(name)), factor))
    return BlockWeights(tuple(entries))
