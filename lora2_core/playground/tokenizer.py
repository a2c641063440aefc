"""Word-level tokenizer of the playground's text encoder, in the shape that the host's SDTokenizer
asks for.

A word outside the vocabulary becomes one of RARE_TOKENS tokens that no caption of the base pictures
used, chosen by a hash of the word: a stable, untrained name for a new subject.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

START, END, COMMA = "<start>", "<end>", ","
RARE_TOKENS = 64
MAX_LENGTH = 16
_WORD = re.compile(r"[^\s,]+|,")


def build_vocabulary(captions: Iterable[str]) -> list[str]:
    """Returns every word of the captions, after the special and the rare tokens; the index is the
    token id.
    """
    words = sorted({word for caption in captions for word in split(caption)} - {COMMA})
    return [START, END, COMMA, *(f"<rare {i}>" for i in range(RARE_TOKENS)), *words]


def split(text: str) -> list[str]:
    """Returns lower-case words and commas of a text."""
    return _WORD.findall(text.lower())


def rare_token(word: str) -> str:
    """Returns the rare token that stands for a word outside the vocabulary."""
    return f"<rare {zlib.crc32(word.encode()) % RARE_TOKENS}>"


class WordTokenizer:
    """`tokenizer(text)["input_ids"]` with start and end, and `get_vocab()`."""

    def __init__(self, vocabulary: list[str]):
        self.ids = {word: i for i, word in enumerate(vocabulary)}

    def __call__(self, text: str) -> dict[str, list[int]]:
        inner = [self.ids.get(word, self.ids[rare_token(word)]) for word in split(text)]
        return {"input_ids": [self.ids[START], *inner, self.ids[END]]}

    def get_vocab(self) -> dict[str, int]:
        return self.ids
