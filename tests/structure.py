"""The structure of what ships, read from its imports; `python -m tests.structure` prints it.

A room is a folder of Python files; an arrow goes from a room to one that it imports from.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nodes", "lora2_core")
SCHEMAS = ("define_schema", "fields")  # of nodes: tables in the form of functions


def shipped(root: Path = ROOT) -> list[Path]:
    """Returns every Python file that ships."""
    return [root / "__init__.py", *(p for n in PACKAGES for p in sorted((root / n).rglob("*.py")))]


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yields the absolute dotted names that a file imports anywhere, ours from the root:
    lora2_core.ranks.rank.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *filter(None, [node.module])])
            inside = (root / Path(*name.split("."))).is_dir() if node.level else False
            yield from (f"{name}.{a.name}".strip(".") for a in node.names) if inside else [name]


def room_of(path: Path, root: Path = ROOT) -> str:
    """Returns the folder that a file lies in, with slashes; "" for the repository's own."""
    parent = path.relative_to(root).parent.as_posix()
    return "" if parent == "." else parent


def room_imported(name: str, root: Path = ROOT) -> str:
    """Returns the room that a dotted name of ours leads to: a module's, or a package's own."""
    path = root / Path(*name.split("."))
    return room_of(path.with_suffix(".py"), root) if path.with_suffix(".py").is_file() else (
        path if path.is_dir() else path.parent
    ).relative_to(root).as_posix()  # fmt: skip


def arrows(root: Path = ROOT) -> set[tuple[str, str]]:
    """Returns (room, room that it imports from), without a room's imports of itself. The packages'
    __init__ files, which hand names on, are left out.
    """
    found = set()
    for path in shipped(root):
        if path.name == "__init__.py":
            continue
        for name in imports(path, root):
            if name.split(".")[0] in PACKAGES:
                pair = room_of(path, root), room_imported(name, root)
                if pair[0] != pair[1]:
                    found.add(pair)
    return found


def circles(pairs: set[tuple[str, str]]) -> set[str]:
    """Returns the rooms that can be reached from themselves along the arrows."""
    reach = {a: {b for x, b in pairs if x == a} for a, _ in pairs}
    changed = True
    while changed:
        changed = False
        for seen in reach.values():
            more = set().union(*(reach.get(b, set()) for b in seen)) - seen if seen else set()
            changed |= bool(more)
            seen |= more
    return {room for room, seen in reach.items() if room in seen}


def longest_function(root: Path = ROOT) -> tuple[int, str]:
    """Returns (lines, where) of the longest function, schemas of nodes left out."""
    found = []
    for path in shipped(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name not in SCHEMAS:
                lines = node.end_lineno - node.lineno + 1
                found.append((lines, f"{path.relative_to(root).as_posix()}: {node.name}"))
    return max(found)


def main() -> None:
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    lines: dict[str, int] = {}
    files: dict[str, int] = {}
    for path in shipped(root):
        room = room_of(path, root) or "(root)"
        files[room] = files.get(room, 0) + 1
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    print(f"{'room':32} files  lines")
    for room in sorted(files):
        print(f"{room:32} {files[room]:5} {lines[room]:6}")
    print(f"{'all':32} {sum(files.values()):5} {sum(lines.values()):6}")
    pairs = arrows(root)
    print(f"rooms {len(files)}, arrows {len(pairs)}, in circles: {len(circles(pairs))}")
    print("longest function: {} lines, {}".format(*longest_function(root)))


if __name__ == "__main__":
    main()
