"""Imports go down only, room by room, and the core needs no host."""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

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
IMPORTED = ["comfy.sd", "requests", "lora2_core.host.loan", "torch.nn", "lora2_core.checks", "ast"]
FORBIDDEN = """
try:
    print(1)
except:
    raise
try:
    assert x
except Exception:
    pass
try:
    log.info(x)
except ValueError:
    pass
"""
# of the protocol: a program on top of the core, that brings the host with it
PROGRAM = {"headless.py", "models.py", "train.py", "trainer.py", "trial.py", "work.py"}


def listed(faults: Callable[[Path], Iterable[object]]) -> list[str]:
    """Returns "file: fault" for all that a rule finds in what ships."""
    return [f"{p.relative_to(ROOT).as_posix()}: {fault}" for p in shipped() for fault in faults(p)]


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


def foreign_imports(path: Path) -> set[str]:
    """Returns what a file of the core imports that is neither ours, Python's nor a library of the
    core; nothing for files that may import the host.
    """
    if room_of(path) in ("", *HOST_ROOMS) or path.name in PROGRAM:
        return set()
    return foreign(imports(path))


def foreign(names: Iterable[str]) -> set[str]:
    """Returns the names of modules that the core may not import."""
    known = set(sys.stdlib_module_names) | LIBRARIES | {"lora2_core"}
    return {n for n in names if n.split(".")[0] not in known or n.startswith("lora2_core.host")}


def style_faults(path: Path) -> Iterator[str]:
    """Yields what the house style forbids: one logger, ValueError at the boundary, and no error
    that vanishes.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            yield f"assert in line {node.lineno}"
        if isinstance(node, ast.Call) and dotted(node.func) == "print":
            yield f"print in line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            swallows = all(isinstance(n, ast.Pass) for n in node.body)
            broad = node.type and dotted(node.type) in ("Exception", "BaseException")
            if node.type is None or (broad and swallows):
                yield f"except in line {node.lineno}"


def test_only_the_nodes_and_the_host_rooms_import_the_host():
    assert listed(foreign_imports) == []


def test_no_prints_no_asserts_no_bare_excepts():
    assert listed(style_faults) == []


def test_the_rules_see_what_they_forbid(tmp_path: Path):
    assert foreign(IMPORTED) == {"comfy.sd", "requests", "lora2_core.host.loan"}
    (tmp_path / "a.py").write_text(FORBIDDEN)
    assert sorted(fault.split()[0] for fault in style_faults(tmp_path / "a.py")) == [
        "assert", "except", "except", "print"
    ]  # fmt: skip
