"""Figure 14: names and paths that try to lead out of the folders that nodes may read and write, and
of what the person has linked into them.

Every file that Python opens, lists, makes, moves or removes meanwhile is seen by an audit hook.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

TOUCHES = {
    "open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir",
    "os.link", "os.symlink", "os.truncate", "os.utime", "os.chmod", "shutil.rmtree",
}  # fmt: skip
PARTS = [
    "..", ".", "...", "a", "lora2", "link", "file_link", "up", "lost", ".. ",
    "CON", "nul.txt", "aux", "COM1", "lpt¹",
    "C:", "c:x", "~", "~root", "$HOME", "%APPDATA%", "etc", "passwd", "a\0b", "\0", "\n", "\r\n",
    "\u202e", "\u200b", "\ufeff", "a.", "a ", " a", "a:b", "a*", "a?", "<a>", '"', "|", "`id`",
    "$(id)", "; rm -rf .", "%2e%2e", "..%2f", "．．", "‥", "\ud800", "x" * 300, "é", "e\u0301",
    "ａ", "🦉", "con ", "CONIN$", "-rf", ".hidden", "%date:yyyy%", "%width%", "{a}", "\x1b[31m",
]  # fmt: skip
STARTS = [
    "", "/", "\\", "//", "\\\\", "\\\\server\\share\\", "\\\\?\\C:\\", "\\\\.\\pipe\\", "C:\\",
    "C:/", "file:///", "/etc/", "/proc/self/", "../", "..\\", "link/", "link/../",
    "up/../", "~/", "//server/share/",
]  # fmt: skip
OTHERS = [None, 3, -1, 1.5, float("nan"), True, [], ["a"], {}, b"a", ("a",), "", " ", "\t"]


def hostile_name(random: Random) -> object:
    """One name: a path of strange parts, or no text at all."""
    if random.random() < 0.02:
        return random.choice(OTHERS)
    slash = random.choice("/\\")
    parts = [random.choice(PARTS) for _ in range(random.randint(1, 6))]
    if random.random() < 0.2:
        parts.append(random.choice([".", ".."]) * 3)
    ending = random.choice(["", "", "/", ".safetensors", ".SAFETENSORS", "\0.safetensors"])
    return random.choice(STARTS) + slash.join(parts) + ending


LINKED = b"of somebody else"


def traps(root: Path, linked: Path, secret: Path) -> None:
    """Links inside a folder as its owner makes them: to another folder, to files, back to itself;
    and a secret folder beside it, to which none leads.
    """
    for folder in (root, linked, secret):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("a.safetensors", "secret.safetensors", "0.png"):
        (secret / name).write_bytes(b"secret")
        (linked / name).write_bytes(LINKED)
    for name, target in (
        ("link", linked), ("file_link", linked / "secret.safetensors"),
        ("file_link.safetensors", linked / "secret.safetensors"), ("up", root),
        ("a_00001_.safetensors", linked / "secret.safetensors"), ("lost", linked / "gone" / "far"),
    ):  # fmt: skip
        if not (root / name).is_symlink():
            (root / name).symlink_to(target)


def written_through(linked: Path) -> list[str]:
    """Files that links lead to and whose contents have changed."""
    names = ("a.safetensors", "secret.safetensors", "0.png")
    return [name for name in names if (linked / name).read_bytes() != LINKED]


class Watch:
    """Sees what Python touches on the disk while it is on: real paths outside of `allowed`."""

    def __init__(self, allowed: list[Path]):
        self.allowed = [os.path.realpath(path) for path in allowed]
        self.on, self.outside = False, set()
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple) -> None:
        if not self.on or event not in TOUCHES:
            return
        paths = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
        for path in paths:
            if isinstance(path, (str, bytes, os.PathLike)):
                self.on = False  # realpath opens nothing, but be sure
                real = os.path.realpath(os.fsdecode(path))
                self.on = True
                if not any(os.path.commonpath([a, real]) == a for a in self.allowed):
                    self.outside.add(f"{event} {real}")

    @contextmanager
    def watching(self) -> Iterator[set]:
        """Yields what is touched outside meanwhile."""
        self.outside, self.on = set(), True
        try:
            yield self.outside
        finally:
            self.on = False


def try_names(
    doors: dict[str, Callable[[object], object]], watch: Watch, count: int, seed: int
) -> tuple[list[str], int]:
    """(what went wrong, how many names were taken): each name goes through one of the doors, which
    are whatever takes a name from a workflow.
    """
    random, wrong, taken = Random(seed), [], 0
    names = list(doors)
    for number in range(count):
        name, door = hostile_name(random), names[number % len(names)]
        with watch.watching() as outside:
            try:
                answer = doors[door](name)
                taken += not isinstance(answer, str)
            except ValueError as error:
                answer = str(error)
            except Exception as error:  # the finding
                wrong.append(f"{door} {name!a}: raw {type(error).__name__}: {error!a}")
                continue
        if isinstance(answer, str) and not ("\n" not in answer and answer.strip()):
            wrong.append(f"{door} {name!a}: no clear sentence {answer!a}")
        wrong += [f"{door} {name!a}: {what!a}" for what in sorted(outside)]
    return wrong, taken
