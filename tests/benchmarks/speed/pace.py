"""Trainers that were not made to wait, made to do one step at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Semaphore, Thread, current_thread

import torch

from lora2_core.training.auction import AuctionPrice

MIDDLE = 0.3  # of a run: ranks move
# work(steps, tick): sets up, trains, calls tick() after each step, returns the adapter's parameters
Work = Callable[[int, Callable[[], None]], int]


class Finished(BaseException):
    """Ends a trainer at a step: no `except Exception` of its own may hold it."""


class Pace(Thread):
    """A trainer in a thread that waits after every step until it is told to go on.

    `seconds` of every step, the first with all that comes before it; of these, `reviews` were spent
    on comparing all rank positions.
    """

    def __init__(self, work: Work, steps: int):
        super().__init__(daemon=True)
        self.work, self.steps = work, steps
        self.go, self.done = Semaphore(0), Semaphore(0)
        self.seconds: list[float] = []
        self.reviews: list[float] = []
        self.review_in_step = 0.0
        self.parameters: int | None = None
        self.error: BaseException | None = None
        self.leaving = False
        self.begun = 0.0

    def run(self) -> None:
        self.go.acquire()
        self.begun = time.perf_counter()
        try:
            if not self.leaving:
                self.parameters = self.work(self.steps, self.tick)
        except Finished:
            pass
        except BaseException as error:
            self.error = error
        self.done.release()

    def tick(self) -> None:
        """Called by the trainer after each step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.begun - self.review_in_step)
        self.review_in_step = 0.0
        self.done.release()
        self.go.acquire()
        if self.leaving:
            raise Finished
        self.begun = time.perf_counter()

    def advance(self) -> None:
        """One step, or after the last one what the trainer does at its end; raises its errors."""
        if not self.is_alive():
            self.start()
        self.go.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error

    def leave(self) -> None:
        """The trainer tidies up and ends here."""
        self.leaving = True
        if self.is_alive():
            self.go.release()
            self.join()


def watch_reviews() -> None:
    """Makes every review of an adaptive run tell its Pace what it took. A run that starts at its
    final size begins where reviews are held, two steps before one.
    """
    original = AuctionPrice.review

    def review(price: AuctionPrice, *arguments) -> None:
        pace, small = current_thread(), price.first_size <= price.adapters.ceiling
        if isinstance(pace, Pace) and not price.index and small:
            price.index = price.every * math.ceil(MIDDLE * price.steps / price.every) - 2
        before, begun = price.targets, time.perf_counter()
        original(price, *arguments)
        if price.targets is not before and isinstance(pace, Pace):
            pace.review_in_step = time.perf_counter() - begun
            pace.reviews.append(pace.review_in_step)

    AuctionPrice.review = review
