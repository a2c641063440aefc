"""Every docstring of a function begins with a verb in the third person: "Returns …", "Moves …"."""

import ast
from pathlib import Path

import pytest

from tests.structure import ROOT, shipped

# words that end in "s" and are no verb: those that docstrings have begun with, and the like
NO_VERBS = {
    "Always", "As", "Crops", "Ids", "Indices", "Its", "Latents", "Layers", "Lines", "Others",
    "Pairs", "Parameters", "Pictures", "Positions", "Rates", "Samples", "Sentences", "Tensors",
    "This", "Those", "Values", "Weights", "Words", "Zeros",
}  # fmt: skip


def first_words(text: str) -> list[tuple[int, str, str]]:
    """Returns (line, function, first word of its docstring) of the functions that have one."""
    words = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                words.append((node.lineno, node.name, docstring.split()[0].rstrip(",.:")))
    return words


def is_verb(word: str) -> bool:
    """Returns whether a word may be a verb in the third person at the start of a sentence."""
    return word.isalpha() and word.istitle() and word.endswith("s") and word not in NO_VERBS


@pytest.mark.parametrize("word", ["Returns", "Moves", "Raises", "Yields", "Is", "Has"])
def test_verbs_are_known(word: str):
    assert is_verb(word)


@pytest.mark.parametrize(
    "word", ["Return", "The", "lora_up", "Its", "Layers", "SNRs", "moves", "A"]
)
def test_other_words_are_known(word: str):
    assert not is_verb(word)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_of_functions_begin_with_a_verb(path: Path):
    wrong = [
        f"line {line}, {name}: {word}"
        for line, name, word in first_words(path.read_text(encoding="utf-8"))
        if not is_verb(word)
    ]
    assert not wrong
