"""Captions and entries: what is shuffled, paired and left without words."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora2_core.dataset.captions import paired, shuffled_tags, variants, without_captions
from lora2_core.dataset.plan import DatasetSettings

tags = st.lists(st.text("abc ", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=8)


@given(tags, st.integers())
def test_shuffling_keeps_the_tags_and_the_first_of_them(words, seed):
    again = shuffled_tags(" ,".join(words), Random(seed)).split(", ")
    assert again[0] == words[0] and sorted(again) == sorted(words)


@pytest.mark.parametrize("caption", ["", " , ,", "one tag"])
def test_a_caption_without_tags_stays(caption):
    assert shuffled_tags(caption, Random(0)) == caption.strip(" ,")


def test_variants_begin_with_the_caption_as_it_is():
    found = variants("a,  b, c, d", 5, "seed")
    assert found[0] == "a,  b, c, d" and len(found) == 6
    assert found == variants("a,  b, c, d", 5, "seed") != variants("a,  b, c, d", 5, "other")


@given(st.integers(1, 9), st.integers(1, 9))
def test_pairs_hold_each_crop_and_each_caption(crops, captions):
    texts = [str(i) for i in range(captions)]
    pairs = paired(list(range(crops)), texts)
    assert len(pairs) == max(crops, captions)
    assert {c for c, _ in pairs} == set(range(crops)) and {t for _, t in pairs} == set(texts)


@given(st.integers(1, 300), st.floats(0.01, 0.5), st.integers(0, 3))
def test_the_share_without_captions_is_met(count, share, seed):
    entries = [(i, "words") for i in range(count)]
    added = without_captions(entries, share, seed)
    assert len(added) >= 1 and all(text == "" for _, text in added)
    total = count + len(added)
    assert abs(len(added) - share * total) <= 1  # to the nearest whole entry, at least one
    assert len({i for i, _ in added}) == len(added), "no picture twice"
    assert added == without_captions(entries, share, seed)


def test_no_share_adds_nothing():
    assert without_captions([(0, "words")], 0.0, 0) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", 8), ("resolution", 512.0), ("crops", -1), ("shuffle_tags", 101),
        ("caption_dropout", 0.51), ("caption_dropout", float("nan")), ("seed", 2**64),
        ("caption", None),
    ],
)  # fmt: skip
def test_settings_name_the_value_and_the_remedy(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*: give a"):
        DatasetSettings(**{field: value})


def test_settings_know_how_many_entries_a_picture_makes():
    settings = DatasetSettings(flip=True, crops=2, shuffle_tags=3)
    crops, captions = list(range(6)), variants("a, b", 3, "")
    assert settings.variants == len(paired(crops, captions)) == 6
