"""What ships runs and fetches no foreign code, opens no route and makes no markup of text."""

import ast

import pytest

from tests.hosting.inprocess import REPOSITORY
from tests.reliability.gate import ALLOWED, faults, faults_of_python, faults_of_script, shipped


def test_what_ships_passes_the_gate():
    assert len(shipped("py")) > 50 and len(shipped("js")) > 10
    assert faults() == []


def test_there_is_one_route_and_it_only_reads():
    """What is allowed is what is there, once each, and nothing in its file writes."""
    (path, kinds), *others = ALLOWED.items()
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert [fault.partition(": ")[2] for fault in faults_of_python(text)] == list(kinds)
    writing = {"write", "unlink", "open", "mkdir", "rename", "replace", "write_text", "write_bytes"}
    assert others == [] and not writing & set(words_of(text))


def words_of(text: str) -> list[str]:
    """The names that a module's code calls."""
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [getattr(call, "attr", getattr(call, "id", "")) for call in calls]


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from urllib import request", "import torch, socket", "eval('1')",
        "exec(x)", "torch.load(p)", "os.system('x')", "__import__('os')", "import http.server",
        "PromptServer.instance.routes.get('/x')", "app.add_routes([])", "compile(a, b, c)",
        "def f():\n    import subprocess",
    ],
)  # fmt: skip
def test_the_gate_sees_python(line: str):
    assert len(faults_of_python(line)) == 1


def test_the_gate_lets_plain_python_through():
    assert faults_of_python("import re, json\nre.compile('a')\nloss.eval()\nmodel.load(x)") == []


@pytest.mark.parametrize(
    "line",
    [
        "a.innerHTML = b", "a.insertAdjacentHTML('x', y)", "document.write(x)", "eval(x)",
        "new Function(x)", "fetch('/x')", "import 'https://cdn.example.org/x.js'",
        "e.outerHTML += x", "new DOMParser()", "frame.srcdoc = x",
    ],
)  # fmt: skip
def test_the_gate_sees_scripts(line: str):
    assert faults_of_script(line)


def test_the_gate_lets_plain_scripts_through():
    fine = (
        "// no innerHTML\na.textContent = b; /* eval( */ api.fetchApi; 'http://www.w3.org/2000/svg'"
    )
    assert faults_of_script(fine) == []
