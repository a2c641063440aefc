"""The README and the pages name what there is, and the README's figures are the results' own."""

import json
import re
from pathlib import Path

import pytest

from tests.project.test_imports import ROOMS
from tests.structure import ROOT, arrows

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
NAMED = re.compile(r"`((?:lora2_core|nodes|tests|web|docs|locales)/[\w./-]+)`")
MODULE = re.compile(r"`(lora2_core(?:\.[a-z_]+)+)")
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def anchors(page: Path) -> set[str]:
    """Returns what a link to a heading of a page may end with, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def numbers(text: str, row: str) -> list[str]:
    """Returns the numbers of the table's row that begins with `row`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {row}"))
    return re.findall(r"\d\.\d+", line)


@PAGE
def test_links_lead_somewhere(page: Path):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@PAGE
def test_files_and_modules_that_are_named_are_there(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in NAMED.findall(text):
        assert (ROOT / name).exists(), name
    for module in MODULE.findall(text):
        parts = module.split(".")
        paths = [ROOT.joinpath(*parts[:n]) for n in (len(parts), len(parts) - 1) if n > 0]
        assert any(p.is_dir() or p.with_suffix(".py").is_file() for p in paths), module


def drawn() -> tuple[set[str], set[tuple[str, str]]]:
    """Returns the rooms and the arrows of the picture in CONTRIBUTING.md, without web/."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text.split("```mermaid")[1].split("```")[0]
    labels = dict(re.findall(r'(\w+)\["([\w/]+)/<br/>', picture))
    top = ("nodes", "nodes/options", "lora2_core")
    rooms = {k: v if v in top else f"lora2_core/{v}" for k, v in labels.items() if k != "web"}
    lines = re.sub(r'\["[^"]*"\]', "", picture)
    return set(rooms.values()), {
        (rooms[a], rooms[b]) for a, b in re.findall(r"(\w+) --> (\w+)", lines)
    }


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    """Each arrow is an import, and every other import follows from the arrows."""
    rooms, pairs = drawn()
    real = arrows()
    assert rooms == set(ROOMS)
    assert pairs <= real
    follows = set(pairs)
    for middle in rooms:
        follows |= {(a, d) for a, b in follows for c, d in follows if b == c == middle}
    assert real - follows == set()


def test_the_readme_names_every_node_once():
    nodes = {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}
    assert sorted(re.findall(r"web/docs/(\w+)\.md", README)) == sorted(nodes)


def test_the_readme_names_every_template():
    rows = re.findall(r"^\| (LoRA2 [\w -]+?) \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(p.stem for p in (ROOT / "example_workflows").glob("*.json"))


def test_the_readme_has_the_ratios_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, _, table = results.partition("\n`adaptive` over plain LoRA, same layers and rank, on all")
    rows = [line.split("|") for line in table.split("\n\n")[1].splitlines()[2:]]
    for row, column in (("over plain LoRA", 2), ("the same, on the base", 4)):
        assert numbers(README, row) == [cells[column].split()[0] for cells in rows]


def test_the_readme_has_the_memory_of_the_performance_page():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for model in ("SD1.5", "SDXL"):
        row = next(line for line in page.splitlines() if re.match(rf"\| {model}.* GB \|", line))
        begins, low = (cell.strip() for cell in row.split("|")[3:5])
        line = next(line for line in README.splitlines() if line.startswith(f"| {model} "))
        assert re.findall(r"[\d.]+ GB", line) == [begins, low]


def test_templates_set_what_the_readme_says():
    """learning_rate and target_rank of LoRA2 Train, in the order of its inputs."""
    found = {}
    for path in (ROOT / "example_workflows").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        train = next(node for node in nodes if node["type"] == "LoRA2Train")
        found[path.stem] = train["widgets_values"][2], train["widgets_values"][4]
    for name, values in {
        "LoRA2 SDXL subject": (1e-4, 16),
        "LoRA2 SDXL style": (1e-4, 16),
        "LoRA2 Flux subject": (1e-4, 16),
        "LoRA2 playground quick start": (5e-3, 4),
    }.items():
        assert found[name] == values
