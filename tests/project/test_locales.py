"""What the views say is translated, and nothing is translated that no view says."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
SCRIPTS = "\n".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "web").rglob("*.js")))
HOST = ("advice", "compiled", "compiled_block", "hints", "memory_plan", "odd_values", "start")
HINTS = [
    *(ROOT / "lora2_core/host/training" / f"{name}.py" for name in HOST),
    ROOT / "nodes/apply.py",
]
# files with sentences on a LoRA's file: NAME_NOTE = "..."
NOTED = (
    "files/provenance", "files/loading", "host/apply", "host/strengths", "host/training/start",
)  # fmt: skip
HINTS += [ROOT / f"lora2_core/{name}.py" for name in NOTED]
_NOTE = re.compile(r'_NOTE = \(?\s*("[^)]+?")\s*(?:\)|\n\n|\n[A-Z#])')
NOTES = {
    re.sub(r'"\s+"', "", text).strip('"').replace(r"\u00b2", "²")
    for name in NOTED
    for text in _NOTE.findall((ROOT / f"lora2_core/{name}.py").read_text(encoding="utf-8"))
}
PYTHON = " ".join(p.read_text(encoding="utf-8") for p in HINTS)
SAID = set(re.findall(r'\bsay\(\s*"([^"]+)"', SCRIPTS))
SENTENCES = set(re.findall(r'"([A-Z][^"]+\.)"', SCRIPTS))  # of tables, said elsewhere
TERMS = {  # what is not written -> what ComfyUI itself calls it in that language
    "ja": {
        "つないで": "接続して",
        "接頭辞": "プレフィックス",
        "パラメーター": "パラメータ",
        "既定": "デフォルト",
        "中止": "キャンセル",
        "最適化手法": "オプティマイザ",
    },
    "zh": {
        "潜空间": "Latent",
        "蒙版": "遮罩",
        "图片": "图像",
        "说明文字": "标注文本",
        "宿主": "ComfyUI",
    },
}
SPECIAL = re.compile(r"[{}@|]")  # these mean something to the front end's translations


def words(language: str) -> dict[str, str]:
    text = (ROOT / "locales" / language / "main.json").read_text(encoding="utf-8")
    return json.loads(text)["lora2"]


def test_chinese_and_japanese_are_there():
    assert {"ja", "zh"} <= set(LANGUAGES)
    assert len(SAID) > 30 and len(SENTENCES) > 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_that_is_said_is_translated(language: str):
    assert words(language).keys() >= SAID | SENTENCES | NOTES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_translation_is_of_something_that_is_said(language: str):
    joined = re.sub(r'"\s+"', "", PYTHON).replace(r"\u00b2", "²")  # sentences over several lines
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


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_term_a_concept(language: str):
    """In translations and help pages, so that a person finds in one what the other speaks of."""
    pages = (ROOT / "web/docs").glob(f"*/{language}.md")
    for path in [*(ROOT / "locales" / language).iterdir(), *pages]:
        text = path.read_text(encoding="utf-8")
        for other, term in TERMS[language].items():
            assert other not in text, f"{path.relative_to(ROOT)}: {term}, not {other}"


def test_every_node_has_a_help_page_with_its_picture():
    """Nodes as the translations list them, which tests/server compares with the host's list."""
    docs = ROOT / "web/docs"
    pages = sorted(docs.glob("*.md"))
    nodes = json.loads((ROOT / "locales/ja/nodeDefs.json").read_text(encoding="utf-8"))
    assert [page.stem for page in pages] == sorted(nodes)
    for page in pages:  # those in other languages have the same, tests/server/test_help_pages.py
        named = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert f"pictures/{page.stem}.png" in named, page.name
        assert all((docs / name).is_file() for name in named), page.name
