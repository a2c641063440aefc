"""Trigger words that a LoRA file's metadata state, as the trainers write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

LONGEST_JSON = 1_000_000  # characters that are parsed: more would take seconds
LONGEST, MOST = 200, 8  # characters of a word, and words
LEAST_PICTURES = 2  # of one picture, every tag is in every caption
# entries whose value is the word itself, of modelspec, ai-toolkit and resizing or hosting programs
STATED = (
    "modelspec.trigger_phrase", "modelspec.trigger_word", "trigger_phrase", "trigger_word",
    "trigger_words", "trainedWords", "activation text", "instance_prompt",
)  # fmt: skip
_REPEATS = re.compile(r"\d+_")


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """Returns the trigger words that the metadata state, or show: class tokens, and tags that stand
    in every caption of a folder of pictures, which is how trainers mark a subject.
    """
    found = [*stated(metadata), *of_subsets(metadata), *in_every_caption(metadata)]
    words = (" ".join(word.split())[:LONGEST] for word in found)
    return [word for word in dict.fromkeys(words) if word][:MOST]


def parsed(metadata: Mapping[str, str], key: str) -> object:
    """Returns the JSON value of an entry, None where there is none."""
    text = metadata.get(key, "")
    if not isinstance(text, str) or len(text) > LONGEST_JSON:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def stated(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yields the words of entries that hold nothing else: a text, or a JSON list of texts."""
    for key in STATED:
        value = parsed(metadata, key)
        if isinstance(value, list):
            yield from (word for word in value if isinstance(word, str))
        elif isinstance(text := metadata.get(key), str):
            yield value if isinstance(value, str) else text


def of_subsets(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yields the class tokens of sd-scripts' data sets."""
    datasets = parsed(metadata, "ss_datasets")
    for dataset in datasets if isinstance(datasets, list) else []:
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for subset in subsets if isinstance(subsets, list) else []:
            tokens = subset.get("class_tokens") if isinstance(subset, dict) else None
            if isinstance(tokens, str):
                yield tokens


def in_every_caption(metadata: Mapping[str, str]) -> list[str]:
    """Returns the tags that each picture of a folder has. The folder's own name comes first where
    it is one of them: `10_owl` means ten repeats of the pictures of `owl`.
    """
    folders, pictures = parsed(metadata, "ss_tag_frequency"), parsed(metadata, "ss_dataset_dirs")
    found: list[str] = []
    for folder, tags in folders.items() if isinstance(folders, dict) else []:
        counts = {
            tag.strip(): count
            for tag, count in (tags.items() if isinstance(tags, dict) else [])
            if isinstance(count, int) and tag.strip()
        }
        subject = _REPEATS.sub("", folder, count=1)
        if subject in counts:  # ai-toolkit writes nothing but this
            found.insert(0, subject)
        facts = pictures.get(folder) if isinstance(pictures, dict) else None
        count = facts.get("img_count") if isinstance(facts, dict) else None
        if isinstance(count, int) and count >= LEAST_PICTURES:
            found += [tag for tag, times in counts.items() if times >= count]
    return found
