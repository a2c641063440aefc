"""What the views say is translated, and nothing is translated that no view says."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
SCRIPTS = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "web").glob("*.js")))
HINTS = [ROOT / "lora2_core/host" / f"{name}.py" for name in ("hints", "odd_values")]
PYTHON = " ".join(p.read_text(encoding="utf-8") for p in (*HINTS, ROOT / "nodes/common.py"))
SAID = set(re.findall(r'\bsay\(\s*"([^"]+)"', SCRIPTS))
SENTENCES = set(re.findall(r'"([A-Z][^"]+\.)"', SCRIPTS))  # of tables, said elsewhere
SPECIAL = re.compile(r"[{}@|]")  # these mean something to the front end's translations


def words(language: str) -> dict[str, str]:
    text = (ROOT / "locales" / language / "main.json").read_text(encoding="utf-8")
    return json.loads(text)["lora2"]


def test_chinese_and_japanese_are_there():
    assert {"ja", "zh"} <= set(LANGUAGES)
    assert len(SAID) > 30 and len(SENTENCES) > 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_that_is_said_is_translated(language: str):
    assert words(language).keys() >= SAID | SENTENCES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_translation_is_of_something_that_is_said(language: str):
    joined = re.sub(r'"\s+"', "", PYTHON)  # sentences over several lines
    for english, translated in words(language).items():
        assert f'"{english}"' in SCRIPTS + joined, english
        assert sorted(re.findall(r"\{\d\}", english)) == sorted(re.findall(r"\{\d\}", translated))
        assert translated.strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_of_nodes_hold_nothing_special(language: str):
    text = (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")

    def values(tree):
        for value in tree.values():
            yield from values(value) if isinstance(value, dict) else [value]

    assert not [v for v in values(json.loads(text)) if SPECIAL.search(v)]


def test_every_node_has_a_help_page_with_its_picture():
    """Nodes as the translations list them, which tests/server compares with the host's list."""
    pages = sorted((ROOT / "web/docs").glob("*.md"))
    nodes = json.loads((ROOT / "locales/ja/nodeDefs.json").read_text(encoding="utf-8"))
    assert [page.stem for page in pages] == sorted(nodes)
    for page in pages:
        named = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert f"pictures/{page.stem}.png" in named, page.name
        assert all((page.parent / name).is_file() for name in named), page.name
