"""What is only said of a run, to whomever: it may fail, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import comfy.model_management

from ..saying import log

T = TypeVar("T")


class OnlySaid:
    """Calls what only says something: `say = OnlySaid()`, then `say(bar.update, 3)`.

    A failure is logged once and forgotten; the host's interrupt, which its progress bar may raise,
    passes.
    """

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, says: Callable[..., T], *args, **kwargs) -> T | None:
        """Returns what the call returns, None where it failed."""
        try:
            return says(*args, **kwargs)
        except comfy.model_management.InterruptProcessingException:  # in old hosts an Exception
            raise
        except Exception as error:
            if not self.failed:
                log.warning(
                    "What shows the run failed, and the run goes on (%s: %s).",
                    type(error).__name__, " ".join(str(error).split())[:300],
                )  # fmt: skip
            self.failed = True
            return None
