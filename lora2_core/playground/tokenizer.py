"""The tokenizer of the playground's text encoder, a token for each word, as the host's SDTokenizer
expects one.

A hash of a word outside the vocabulary chooses one of RARE_TOKENS tokens, which no caption of the
base model's pictures had. Such a token is a stable, untrained name for a new subject.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

START, END, COMMA = "<start>", "<end>", ","
# tokens for words outside the vocabulary
RARE_TOKENS = 64
# tokens of a prompt, with start and end
MAX_LENGTH = 16
_WORD = re.compile(r"[^\s,]+|,")


def build_vocabulary(captions: Iterable[str]) -> list[str]:
    """Returns the vocabulary: special tokens, rare tokens and every word of the captions. The index
    is the token id.
    """
    words = sorted({word for caption in captions for word in split(caption)} - {COMMA})
    return [START, END, COMMA, *(f"<rare {i}>" for i in range(RARE_TOKENS)), *words]


def split(text: str) -> list[str]:
    """Returns the words of a text in lower case, and its commas."""
    return _WORD.findall(text.lower())


def rare_token(word: str) -> str:
    """Returns the rare token that stands for a word outside the vocabulary."""
    return f"<rare {zlib.crc32(word.encode()) % RARE_TOKENS}>"


class WordTokenizer:
    """A tokenizer with the two calls that the host makes: `tokenizer(text)["input_ids"]`, with
    start and end tokens, and `get_vocab()`.
    """

    def __init__(self, vocabulary: list[str]):
        self.ids = {word: i for i, word in enumerate(vocabulary)}

    def __call__(self, text: str) -> dict[str, list[int]]:
        inner = [self.ids.get(word, self.ids[rare_token(word)]) for word in split(text)]
        return {"input_ids": [self.ids[START], *inner, self.ids[END]]}

    def get_vocab(self) -> dict[str, int]:
        return self.ids
