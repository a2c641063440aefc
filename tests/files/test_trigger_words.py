"""Trigger words as the trainers write them, and metadata that mean to harm."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora2_core.files.trigger_words import LONGEST, MOST, trigger_words


def kohya(folders: dict, counts: dict | None = None) -> dict:
    found = {"ss_tag_frequency": json.dumps(folders)}
    dirs = {name: {"n_repeats": 5, "img_count": n} for name, n in (counts or {}).items()}
    return found | ({"ss_dataset_dirs": json.dumps(dirs)} if counts else {})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"modelspec.trigger_phrase": "ohwx woman, red hat"}, ["ohwx woman, red hat"]),
        ({"trigger_word": "p3r5on"}, ["p3r5on"]), ({"trainedWords": '["a", "b", 3]'}, ["a", "b"]),
        (kohya({"1_p3r5on": {"p3r5on": 1}}), ["p3r5on"]),  # as ai-toolkit writes it
        (kohya({"10_owl": {"owl": 20, "blue sky": 20, "tree": 19}}, {"10_owl": 20}),
         ["owl", "blue sky"]),
        (kohya({"10_owl": {"owl": 20, "blue sky": 20}}), ["owl"]),
        (kohya({"owl": {"a bird": 1, "b": 1}}, {"owl": 1}), []),
        ({"ss_datasets": json.dumps([{"subsets": [{"class_tokens": "sks dog"}, 3]}, None])},
         ["sks dog"]),
        ({"ss_tag_frequency": "[1]", "ss_dataset_dirs": "{", "ss_datasets": "{}"}, []),
        ({"trigger_word": "  two\nlines "}, ["two lines"]), ({}, []),
        ({"ss_tag_frequency": "[" * 100_000}, []), ({"trigger_word": "x" * 9999}, ["x" * LONGEST]),
        ({"trainedWords": json.dumps([str(n) for n in range(99)])}, list("01234567")),
    ],
)  # fmt: skip
def test_words_of_every_trainer(metadata, words):
    assert trigger_words(metadata) == words and len(words) <= MOST


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(JSON, JSON, JSON)
def test_no_metadata_is_too_odd(tags, folders, datasets):
    keys = "ss_tag_frequency", "ss_dataset_dirs", "ss_datasets"
    values = dict(zip(keys, map(json.dumps, (tags, folders, datasets)), strict=True))
    assert all(isinstance(word, str) and word for word in trigger_words(values))
