"""The static gate of figure 16: what ships has no way to run or fetch foreign code, opens no server
route but the one that lists captions, and makes no markup of text.

Python is read by `ast`; scripts by their words, outside of comments.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.hosting.inprocess import REPOSITORY

FORBIDDEN = {
    "pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "subprocess", "multiprocessing",
    "ctypes", "cffi", "requests", "urllib", "urllib3", "http", "httpx", "aiohttp", "socket",
    "ssl", "ftplib", "smtplib", "telnetlib", "websocket", "websockets", "huggingface_hub", "pip",
    "ensurepip", "runpy", "code", "pty",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint", "torch.load", "torch.hub.load",
    "torch.save", "torch.package", "os.system", "os.popen", "os.fork", "np.load", "numpy.load",
    "folder_paths.add_model_folder_path", "comfy.utils.load_torch_file",
}  # fmt: skip
ENDINGS = {
    ".execv", ".spawnv", ".posix_spawn", ".add_routes", ".add_route", ".add_get", ".add_post",
    ".routes.get", ".routes.post", ".routes.put", ".routes.delete", ".routes.static",
}  # fmt: skip
# the one route, which reads and never writes
ALLOWED = {"lora2_core/host/data/caption_route.py": ("import aiohttp", "server.routes.get()")}
WORDS = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function|srcdoc|"
    r"createContextualFragment|DOMParser|XMLHttpRequest|WebSocket|importScripts|sendBeacon)\b"
    r"|\bfetch\(|https?://(?!www\.w3\.org/)"
)
COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'])//[^\n]*", re.DOTALL)


def shipped(kind: str) -> list[Path]:
    """Every file of a kind that users get."""
    folders = [REPOSITORY / name for name in ("nodes", "lora2_core", "web")]
    found = [path for folder in folders for path in sorted(folder.rglob(f"*.{kind}"))]
    return [REPOSITORY / "__init__.py", *found] if kind == "py" else found


def dotted(node: ast.expr) -> str:
    """a.b.c of a call's function; ().c for a method of whatever has no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "()"


def faults_of_python(text: str) -> list[str]:
    """What a module must not have, with its line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [f"{node.lineno}: import {n}" for n in names if n.split(".")[0] in FORBIDDEN]
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in CALLS or any(name.endswith(ending) for ending in ENDINGS):
                found.append(f"{node.lineno}: {name}()")
    return found


def faults_of_script(text: str) -> list[str]:
    """What a script must not have."""
    return [match[0] for match in WORDS.finditer(COMMENT.sub("", text))]


def faults() -> list[str]:
    """Of everything that ships."""
    found = []
    for kind, look in (("py", faults_of_python), ("js", faults_of_script)):
        for path in shipped(kind):
            name = path.relative_to(REPOSITORY).as_posix()
            seen = look(path.read_text(encoding="utf-8"))
            found += [f"{name}: {fault}" for fault in seen if not allowed(name, fault)]
    return found


def allowed(name: str, fault: str) -> bool:
    """Whether a file may have a fault."""
    return fault.partition(": ")[2] in ALLOWED.get(name, ())
