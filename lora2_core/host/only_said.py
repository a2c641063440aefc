"""Messages about a run that may fail: the run goes on without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import comfy.model_management

from ..saying import log

T = TypeVar("T")


class OnlySaid:
    """Calls functions that only report something: `say = OnlySaid()`, then `say(bar.update, 3)`.

    The first error is logged, further ones are ignored. The host's interrupt, which its progress
    bar may raise, is passed on.
    """

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, says: Callable[..., T], *args, **kwargs) -> T | None:
        """Calls a function and returns its result; None when it fails."""
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
