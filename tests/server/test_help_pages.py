"""Every help page, in every language, names each input with its default, and each output."""

import json
import re
from pathlib import Path

import pytest

from tests.hosting.server import ComfyServer
from tests.project.test_locales import LANGUAGES, ROOT
from tests.server.test_locales import inputs_of

DOCS = ROOT / "web" / "docs"
ENGLISH = "en"
HEADINGS = {
    ENGLISH: ("Inputs", "Outputs"),
    "ja": ("入力", "出力"),
    "zh": ("输入", "输出"),
}
SWITCH = {ENGLISH: ("on", "off"), "ja": ("オン", "オフ"), "zh": ("开", "关")}
ITEM = re.compile(r"^- \*\*(.+?)\*\*(?: \((.+?)\)|（(.+?)）)?(?:: |：)\S", re.MULTILINE)
SHORT = 40  # characters; a page describes a longer default in words


def page_of(node: str, language: str) -> Path:
    """Where the front end looks: in the user's language first, then in English."""
    return DOCS / f"{node}.md" if language == ENGLISH else DOCS / node / f"{language}.md"


def items(page: str, heading: str) -> dict[str, str]:
    """name -> default as it is written, of the list under a heading."""
    _, _, section = page.partition(f"\n## {heading}\n")
    section = section.partition("\n## ")[0].partition("\n!")[0]
    assert section.count("\n- ") == len(ITEM.findall(section)), f"{heading}: {section}"
    return {name: (plain or wide).strip("`") for name, plain, wide in ITEM.findall(section)}


def written(default: object, language: str) -> str:
    if isinstance(default, bool):
        return SWITCH[language][not default]
    if isinstance(default, (int, float)):
        return f"{default:g}".replace("e-0", "e-") if default != 1e-4 else "1e-4"
    return default or ""


def names(node: str, info: dict, language: str) -> tuple[dict[str, str], list[str]]:
    """What the sockets are called: input -> name, and the outputs."""
    if language == ENGLISH:
        return {name: name for name in inputs_of(info)}, info["output_name"]
    path = ROOT / "locales" / language / "nodeDefs.json"
    entry = json.loads(path.read_text(encoding="utf-8"))[node]
    inputs = {name: each["name"] for name, each in entry.get("inputs", {}).items()}
    return inputs, [entry["outputs"][str(i)]["name"] for i in range(len(info["output"]))]


@pytest.fixture(scope="module")
def ours(server: ComfyServer) -> dict[str, dict]:
    return {k: v for k, v in server.object_info().items() if k.startswith("LoRA2")}


@pytest.mark.parametrize("language", [ENGLISH, *LANGUAGES])
def test_a_page_names_every_input_with_its_default_and_every_output(
    ours: dict[str, dict], language: str
) -> None:
    for node, info in ours.items():
        path = page_of(node, language)
        assert path.is_file(), f"write {path.relative_to(ROOT)}"
        page = path.read_text(encoding="utf-8")
        inputs, outputs = names(node, info, language)
        wanted = {inputs[n]: options.get("default") for n, options in inputs_of(info).items()}
        found = items(page, HEADINGS[language][0])
        where = path.relative_to(ROOT)
        assert found.keys() == wanted.keys(), where
        for name, default in wanted.items():
            if len(text := written(default, language)) < SHORT:
                assert found[name] == text, f"{where}: {name}"
            else:
                assert found[name], f"{where}: {name} has a default"
        assert list(items(page, HEADINGS[language][1])) == outputs, where


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_in_another_language_has_the_sections_and_links_of_the_english_one(
    ours: dict[str, dict], language: str
) -> None:
    for node in ours:
        english = page_of(node, ENGLISH).read_text(encoding="utf-8")
        other = page_of(node, language).read_text(encoding="utf-8")
        for kind in (r"^#+ ", r"^- ", r"\]\(([^)]+)\)", r"^```"):
            found = [re.findall(kind, page, re.MULTILINE) for page in (english, other)]
            assert found[0] == found[1], f"{node}, {language}: {kind}"


def test_no_page_has_a_table(ours: dict[str, dict]) -> None:
    """The panel is too narrow for one: its last column is out of sight."""
    for page in DOCS.rglob("*.md"):
        assert not re.search(r"^\|", page.read_text(encoding="utf-8"), re.MULTILINE), page.name


def test_no_page_is_of_something_else(ours: dict[str, dict]) -> None:
    expected = {page_of(node, language) for node in ours for language in (ENGLISH, *LANGUAGES)}
    assert set(DOCS.rglob("*.md")) == expected
