"""Imports go down only, room by room, and the core needs no host."""

import ast
import sys
from pathlib import Path

import pytest

from tests.reliability.gate import dotted
from tests.structure import ROOT, arrows, circles, imports, room_of, shipped

HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "execution", "nodes"}
LIBRARIES = {"torch", "numpy", "PIL", "safetensors", "einops", "matplotlib", "ray"}
# a room imports from those above it only; CONTRIBUTING.md says what each is for
ROOMS = [
    "lora2_core",
    "lora2_core/adapter",
    "lora2_core/files",
    "lora2_core/ranks",
    "lora2_core/layers",
    "lora2_core/training",
    "lora2_core/charts",
    "lora2_core/dataset",
    "lora2_core/playground",
    "lora2_core/host",
    "lora2_core/host/data",
    "lora2_core/host/training",
    "lora2_core/protocol",
    "nodes",
    "nodes/options",
]
HOST_ROOMS = [room for room in ROOMS if room.startswith(("lora2_core/host", "nodes"))]
# of the protocol: a program on top of the core, that brings the host with it
PROGRAM = {"headless.py", "trial.py", "work.py"}


def path_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SHIPPED_FILES = pytest.mark.parametrize("path", shipped(), ids=path_id)


def test_the_reader_of_imports_reads():
    """These tests prove nothing unless `imports` sees every form."""
    assert "lora2_core.ranks.rank" in set(imports(ROOT / "lora2_core/layers/adapters.py"))
    assert "matplotlib.figure" in set(imports(ROOT / "lora2_core/charts/drawing.py")), (
        "in functions"
    )
    assert "nodes.LoRA2Extension" in set(imports(ROOT / "__init__.py"))
    assert "lora2_core.checks" in set(imports(ROOT / "nodes/checking.py"))
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == {"a", "b", "c"}


def test_imports_go_down_only():
    rooms = {room_of(path) for path in shipped() if path.parent != ROOT}
    assert rooms == set(ROOMS), "give a new room its place in ROOMS and in CONTRIBUTING.md"
    assert {(a, b) for a, b in arrows() if ROOMS.index(b) > ROOMS.index(a)} == set()


def test_the_root_imports_nothing_when_it_is_imported():
    """The host's modules at the top of the root would break every test and tool without a host."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]


@SHIPPED_FILES
def test_only_the_nodes_and_the_host_seam_import_the_host(path: Path):
    if room_of(path) in ("", *HOST_ROOMS) or path.name in PROGRAM:
        return
    found = {n.split(".")[0] for n in imports(path)}
    assert not found & HOST
    assert found <= set(sys.stdlib_module_names) | LIBRARIES | {"lora2_core"}
    assert not any(n.startswith("lora2_core.host") for n in imports(path))


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
