"""What the terminal is told can be written there, and a failure to say it ends nothing."""

import ast
import io
import logging
import re
import sys
import tokenize
from pathlib import Path

import pytest

from lora2_core.saying import log, plainly, writable
from tests.project.test_imports import listed

CODE_PAGES = ("cp932", "gbk", "cp950", "cp949", "cp1250", "cp1251", "cp866", "cp874", "ascii")
TEXT = "²é語\udc80"


def prose(path: Path) -> set[int]:
    """Returns the lines of docstrings and comments of their own, which no traceback shows."""
    text = path.read_text(encoding="utf-8")
    lines = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines |= set(range(first.lineno, first.end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            lines.add(token.start[0])
    return lines


def odd_code(path: Path) -> list[str]:
    """Returns the lines of code that are not ASCII."""
    skipped = prose(path)
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [f"{n}: {line}" for n, line in lines if n not in skipped and not line.isascii()]


def odd_texts(path: Path) -> list[str]:
    """Returns the texts that are raised or logged and not ASCII: an error's text ends in the
    terminal too.
    """
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Raise) or name.startswith("log.") or name == "tqdm":
            texts += [c.value for c in ast.walk(node) if isinstance(c, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and not text.isascii()]


def other_logs(path: Path) -> list[str]:
    """Returns the loggers of ours that a file asks for, which would not be guarded; a level may be
    set.
    """
    return re.findall(r'getLogger\("lora2"\)(?!\.setLevel)', path.read_text(encoding="utf-8"))


def test_lines_that_a_traceback_may_show_are_ascii():
    assert listed(odd_code) == []


def test_what_is_raised_or_logged_is_ascii():
    assert listed(odd_texts) == []


def test_there_is_one_log():
    assert listed(other_logs) == ['lora2_core/saying.py: getLogger("lora2")']


def test_the_rules_see_what_they_forbid(tmp_path: Path):
    file = tmp_path / "a.py"
    file.write_text('"""²"""\n# ²\nx = "²"\nraise ValueError(f"{x} \u00b2")\n', encoding="utf-8")
    assert odd_code(file) == ['3: x = "²"', '4: raise ValueError(f"{x} ²")']
    assert odd_texts(file) == [" ²"]


class Broken(io.TextIOBase):
    """A terminal that is gone."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise ValueError("I/O operation on closed file.")


def terminal(code_page: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=code_page)


@pytest.fixture
def handled(monkeypatch):
    """Lets the log write to a stream as the host does: with a StreamHandler, errors shown."""

    def use(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(logging, "raiseExceptions", True)
        handler = logging.StreamHandler(stream)
        monkeypatch.setattr(logging.getLogger("lora2"), "handlers", [handler])
        monkeypatch.setattr(logging.getLogger("lora2"), "propagate", False)

    return use


@pytest.mark.parametrize("code_page", [*CODE_PAGES, "utf-8"])
def test_texts_are_escaped_where_the_terminal_lacks_their_signs(monkeypatch, code_page: str):
    monkeypatch.setattr(sys, "stdout", terminal(code_page))
    writable(TEXT).encode(code_page)
    assert writable("plain") == "plain"
    assert code_page != "utf-8" or writable("²é語") == "²é語"


@pytest.mark.parametrize("code_page", CODE_PAGES)
def test_a_log_line_with_a_name_and_an_error_is_written(handled, code_page: str):
    handled(stream := terminal(code_page))
    try:
        raise ValueError(TEXT)
    except ValueError as error:  # what is logged here has a context whose text can't be written
        log.error("%s is not saved: %s", TEXT, error)
        log.error("It ended by an error:", exc_info=error)
    stream.flush()
    told = stream.buffer.getvalue().decode(code_page)
    assert "is not saved" in told and "ValueError" in told and "Logging error" not in told


def test_a_terminal_that_is_gone_ends_nothing(handled):
    handled(Broken())
    log.warning("Nobody reads this.")
    log.info("%d", "not a number")  # nor does a mistake in what is said


@pytest.mark.parametrize("code_page", CODE_PAGES)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, UnicodeError])
def test_errors_of_nodes_have_texts_that_the_terminal_can_write(monkeypatch, kind, code_page: str):
    monkeypatch.setattr(sys, "stderr", terminal(code_page))

    def execute():
        try:
            raise OSError(TEXT)
        except OSError as error:
            raise kind(f"There is no file {TEXT}") from error

    with pytest.raises(kind) as found:
        plainly(execute)()
    assert str(found.value).startswith("There is no file ")
    shown = "".join(__import__("traceback").format_exception(found.value))
    shown.replace("²é語", "").encode(code_page)  # this file's own lines


def test_errors_that_can_be_written_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal("cp932"))
    error = KeyError("a")

    def execute():
        raise error

    with pytest.raises(KeyError) as found:
        plainly(execute)()
    assert found.value is error
