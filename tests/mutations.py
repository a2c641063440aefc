"""Small faults put into what ships, one at a time: how many of them the tests notice.

`python -m nox -s mutations -- --count 30 --seed 0` runs the fast tests of the files that are
nearest to the changed module, until one fails; what they miss is tried with the slow tests of the
same files. Each fault is made in a copy of the repository.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure import ROOT, imports, shipped

# functions whose texts and looks have tests of their own
LEFT_OUT = {"define_schema", "fields", "__repr__"}
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}  # fmt: skip
SERVED = {"server", "browser"}
DEFINED = re.compile(r"^ *(?:def|class) (\w+)|[\"'](LoRA2\w+)", re.MULTILINE)
WORD = re.compile(r"\w+")
FILES = 12  # of tests for a fault: what these miss, others hardly ever notice
# options, and the seconds for one fault: several times what the tests take; a hang is noticed too
FAST, SLOW = (("--fast",), 900), (("--all", "-m", "slow"), 1800)


def faults(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Yields every place of a module that a fault can be put into, and what kind it is."""
    left_out = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in LEFT_OUT
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
            yield node, "compare"
        elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
            if not isinstance(node.left, (ast.JoinedStr, ast.Constant)):
                yield node, "compute"
        elif isinstance(node, ast.BoolOp):
            yield node, "and/or"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, "not"
        elif isinstance(node, ast.If):
            yield node, "condition"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "call"


def put(node: ast.AST, kind: str) -> None:
    """Changes the node in place."""
    if kind == "compare":
        node.ops[0] = COMPARED[type(node.ops[0])]()
    elif kind == "compute":
        node.op = COMPUTED[type(node.op)]()
    elif kind == "and/or":
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif kind == "not":
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    elif kind == "condition":
        node.test = ast.Constant(False)
    else:
        node.value = ast.Constant(None)


def chosen(count: int, seed: int) -> list[tuple[Path, int]]:
    """Returns (file, number of the fault in it), each file as likely as it has places."""
    places = []
    for path in shipped():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        places += [(path, i) for i, _ in enumerate(faults(tree))]
    return random.Random(seed).sample(places, count)


def selected(path: Path) -> list[str]:
    """Returns the test files that can notice a fault in a module, the nearest first: those that
    import it, then those that name most of what it defines, then by how many imports lie between.
    Tests of the server and the browser reach everything, by way of a server: they come last.
    """
    files = [*shipped(), *sorted((ROOT / "tests").rglob("*.py"))]
    names = {f: ".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files}
    names = {f: name.removesuffix(".__init__") for f, name in names.items()}
    importers: dict[str, set[str]] = {}
    for file in files:
        for target in imports(file):
            importers.setdefault(target.removeprefix("comfyui_lora2."), set()).add(names[file])
    distance, front = {names[path]: 0}, [names[path]]
    while front:
        near = front.pop(0)
        for name in importers.get(near, ()):
            if name not in distance:
                distance[name] = distance[near] + 1
                front.append(name)
    defined = DEFINED.findall(path.read_text(encoding="utf-8"))
    defined = {name for pair in defined for name in pair if len(name) > 3}

    def farness(test: Path) -> tuple:
        words = set(WORD.findall(test.read_text(encoding="utf-8")))
        between = distance.get(names[test], len(files))
        served = not SERVED.isdisjoint(test.parts)
        return served, between > 1, -len(defined & words), between, names[test]

    tests = [f for f in files if f.name.startswith("test_")]
    tests = [f for f in tests if names[f] in distance or "host" in f.parts or SERVED & {*f.parts}]
    return [str(f.relative_to(ROOT)) for f in sorted(tests, key=farness)]


def noticed(copy: Path, tests: list[str], tier: tuple[tuple[str, ...], int]) -> bool:
    """Returns whether a test fails in the copy, or can't be collected, or the tests hang."""
    options, seconds = tier
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *options, *tests], cwd=copy, timeout=seconds, capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True
    return done.returncode in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=FILES)
    asked = parser.parse_args()
    fast = every = 0
    with tempfile.TemporaryDirectory(prefix="lora2-") as scratch:
        for number, (path, place) in enumerate(chosen(asked.count, asked.seed), 1):
            copy = Path(scratch) / str(number)
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
            tree = ast.parse(path.read_text(encoding="utf-8"))
            node, kind = list(faults(tree))[place]
            before = ast.unparse(node).splitlines()[0][:70]
            line = node.lineno
            put(node, kind)
            ast.fix_missing_locations(tree)
            (copy / path.relative_to(ROOT)).write_text(ast.unparse(tree), encoding="utf-8")
            tests = selected(path)[: asked.files]
            by_fast = noticed(copy, tests, FAST)
            by_every = by_fast or noticed(copy, tests, SLOW)
            fast, every = fast + by_fast, every + by_every
            who = "fast tests" if by_fast else "every test" if by_every else "MISSED"
            where = path.relative_to(ROOT).as_posix()
            print(f"{number:3} {who:10} {where}:{line} {kind}: {before}", flush=True)
            shutil.rmtree(copy)
    print(f"{asked.count} faults: the fast tests notice {fast}, all tests {every}")


if __name__ == "__main__":
    main()
