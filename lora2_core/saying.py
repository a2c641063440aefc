"""Messages to the terminal. A run must not end because a terminal is gone, or lacks a character.

The whole pack logs through `log`; no other module makes a logger.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any


def writable(text: str) -> str:
    """Returns the text with escapes for the characters that the terminal can't write."""
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
    """Returns the text with escapes for every character outside ASCII."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


class Log(logging.LoggerAdapter):
    """A logger whose calls never raise. A handler that can't write would raise and end the run, and
    so would the traceback that it prints of that.
    """

    def log(
        self, level: int, msg: object, *args: object, exc_info: object = None, **kwargs: Any
    ) -> None:
        """Logs a message as `writable` text; the traceback of an error becomes part of it."""
        if not self.isEnabledFor(level):
            return
        with contextlib.suppress(Exception):  # there is no other way left to report it
            text = str(msg) % args if args else str(msg)
            error = sys.exc_info()[1] if exc_info is True else exc_info
            if isinstance(error, BaseException):
                text = f"{text}\n{''.join(traceback.format_exception(error))}".rstrip()
            kwargs.setdefault("stacklevel", 3)
            self.logger.log(level, "%s", writable(text), **kwargs)


log = Log(logging.getLogger("lora2"), {})


def speakable(error: Exception) -> Exception:
    """Returns the error, or one like it in characters that the terminal has. The host logs errors
    itself: one whose text or traceback can't be written would end the thread that runs prompts.
    """
    logged = "".join(traceback.format_exception(error))
    if writable(logged) == logged:
        return error
    text = writable(str(error))
    try:
        plain = type(error)(text)
    except Exception:  # its class needs more than one text
        plain = RuntimeError(text)
    if writable(str(plain)) != str(plain) or str(plain) != text:
        plain = RuntimeError(text)
    frames = error.__traceback__
    lines = "".join(traceback.format_tb(frames))
    return plain.with_traceback(frames if writable(lines) == lines else None)


def plainly(execute: Callable) -> Callable:
    """Returns a node's execute, with its errors made `speakable`."""

    @functools.wraps(execute)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except Exception as error:
            if (plain := speakable(error)) is error:
                raise
            raise plain from None

    return call
