"""What the terminal is told. A run does not end because a terminal can't write a sign, or is gone.

The log of the pack is `log`; no other module asks for a logger of its own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import traceback
from collections.abc import Callable


def writable(text: str) -> str:
    """Returns the text with escapes for what a stream of the terminal can't write."""
    for stream in (sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None)
        try:
            text.encode(encoding if isinstance(encoding, str) else "utf-8")
        except LookupError:  # a code page that Python doesn't know
            text = ascii_only(text)
        except UnicodeError:
            text = text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    return text


def ascii_only(text: str) -> str:
    """Returns the text with escapes for all that isn't ASCII."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


class Log(logging.LoggerAdapter):
    """A logger whose calls never raise: handlers that can't write raise what ends a run, and a
    traceback that they print on the way may fail as well.
    """

    def log(self, level: int, msg: object, *args, exc_info=None, **kwargs) -> None:
        """Logs what the terminal can write; an error's traceback becomes part of the text."""
        if not self.isEnabledFor(level):
            return
        with contextlib.suppress(Exception):  # there is no other place to tell it
            text = str(msg) % args if args else str(msg)
            error = sys.exc_info()[1] if exc_info is True else exc_info
            if isinstance(error, BaseException):
                text = f"{text}\n{''.join(traceback.format_exception(error))}".rstrip()
            kwargs.setdefault("stacklevel", 3)
            self.logger.log(level, "%s", writable(text), **kwargs)


log = Log(logging.getLogger("lora2"), {})


def speakable(error: Exception) -> Exception:
    """Returns the error, or one of its kind in signs that the terminal has: the host's own logging
    of an exception whose text or traceback can't be written ends the thread that runs prompts.
    """
    told = "".join(traceback.format_exception(error))
    if writable(told) == told:
        return error
    text = writable(str(error))
    try:
        plain = type(error)(text)
    except Exception:  # a kind that is made of more than a text
        plain = RuntimeError(text)
    if writable(str(plain)) != str(plain) or str(plain) != text:
        plain = RuntimeError(text)
    frames = error.__traceback__
    lines = "".join(traceback.format_tb(frames))
    return plain.with_traceback(frames if writable(lines) == lines else None)


def plainly(execute: Callable) -> Callable:
    """Returns a node's execute whose errors are `speakable`."""

    @functools.wraps(execute)
    def call(*args, **kwargs):
        try:
            return execute(*args, **kwargs)
        except Exception as error:
            if (plain := speakable(error)) is error:
                raise
            raise plain from None

    return call
