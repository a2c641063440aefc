"""Imports go one way, and the core needs no host."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.gate import dotted

ROOT = Path(__file__).resolve().parents[1]
HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "execution", "nodes"}
LIBRARIES = {"torch", "numpy", "PIL", "safetensors", "einops", "matplotlib", "ray"}
SHIPPED = [
    ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")),
    *sorted((ROOT / "lora2_core").rglob("*.py")),
]  # fmt: skip
# a module of the core imports from the levels above its own only
LEVELS = [
    {
        "rank",
        "names",
        "atomic",
        "attention",
        "loss_scale",
        "worth",
        "singular",
        "schedule",
        "layer_ranks",
        "tensor_file",
        "scores",
        "places",
        "parallel",
        "drawing",
        "saying",
        "seal",
    },
    {"settings", "moments", "checksums"},
    {"layer", "lora", "optimizers", "loss"},
    {"targets", "aligned", "metadata", "compress", "model_order", "own_rows", "starting"},
    {"adapters", "rank_map", "size_curve", "provenance"},
    {"pricing", "files", "loading", "history", "target_table"},
    {"training", "heatmap", "info"},
    {"info_picture", "run_state", "report", "score_chart"},
    {"checkpoint", "last_good"},
]
# of the protocol: a program on top of the core, that brings the host with it
PROGRAM = {"headless.py", "work.py"}
CORE = {path.stem: path for path in sorted((ROOT / "lora2_core").glob("[!_]*.py"))}


def path_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SHIPPED_FILES = pytest.mark.parametrize("path", SHIPPED, ids=path_id)


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names that a file imports anywhere, ours from the root: lora2_core.rank."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *filter(None, [node.module])])
            inside = (ROOT / Path(*name.split("."))).is_dir() if node.level else False
            yield from (f"{name}.{a.name}".strip(".") for a in node.names) if inside else [name]


def test_the_reader_of_imports_reads():
    """These tests prove nothing unless `imports` sees every form."""
    assert "lora2_core.rank" in set(imports(CORE["adapters"]))
    assert "matplotlib.figure" in set(imports(CORE["drawing"])), "inside a function"
    assert "nodes.LoRA2Extension" in set(imports(ROOT / "__init__.py"))
    assert "lora2_core.settings" in set(imports(ROOT / "nodes" / "fields.py"))
    assert "lora2_core.lora" in set(imports(ROOT / "lora2_core" / "host" / "apply.py"))


def area(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@SHIPPED_FILES
def test_imports_go_from_the_root_to_the_nodes_to_the_core(path: Path):
    ours = {n for n in imports(path) if n.split(".")[0] in ("nodes", "lora2_core")}
    allowed = {"__init__.py": ("nodes",), "nodes": ("nodes", "lora2_core")}
    assert all(n.split(".")[0] in allowed.get(area(path), ("lora2_core",)) for n in ours)


def test_the_root_imports_nothing_when_it_is_imported():
    """The host's modules at the top of the root would break every test and tool without a host."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]


@SHIPPED_FILES
def test_only_the_nodes_and_the_host_seam_import_the_host(path: Path):
    if path.parent.name == "protocol" and path.name in PROGRAM:
        return
    if area(path) == "lora2_core" and "host" not in path.relative_to(ROOT).parts:
        found = {n.split(".")[0] for n in imports(path)}
        assert not found & HOST
        assert found <= set(sys.stdlib_module_names) | LIBRARIES | {"lora2_core"}
        assert not any(n.startswith("lora2_core.host") for n in imports(path))


@pytest.mark.parametrize("name", CORE)
def test_the_core_is_in_layers(name: str):
    level = next((i for i, names in enumerate(LEVELS) if name in names), None)
    assert level is not None, f"{name} has no level: give it the lowest that its imports allow"
    ours = {n.split(".")[1] for n in imports(CORE[name]) if n.startswith("lora2_core.")}
    assert ours <= set().union(*LEVELS[:level])


@SHIPPED_FILES
def test_no_prints_no_asserts_no_bare_excepts(path: Path):
    """House style: one logger, ValueError at the boundary, and no error that vanishes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), node.lineno
        if isinstance(node, ast.Call):
            assert dotted(node.func) != "print", node.lineno
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, node.lineno
            swallows = all(isinstance(n, ast.Pass) for n in node.body)
            broad = dotted(node.type) in ("Exception", "BaseException")
            assert not (broad and swallows), node.lineno
