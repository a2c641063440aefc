"""Trials, or the trainings of a job, on a Ray cluster, one on each GPU or on a share of one. Those
of a lost worker are done again by another, and every row is in the table as soon as its trial ends.

Ray is an optional extra: `python -m pip install ray`. Only the process that started the sweep
writes the table. The workers need the pack, ComfyUI, the data and the output folder at the same
paths, that is on a shared disk.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from .headless import PACK

MISSING = "Ray is not installed: install it with `python -m pip install ray`."
T = TypeVar("T")
# in a worker: the function that executes trials, with its models loaded, by the workshop's repr
_loaded: dict[str, Callable[[Any], dict]] = {}


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster that trials run on: at `address` (`auto` for the cluster of this machine),
    or, where that is None, `workers` processes on this machine.

    cpus, gpus: what a trial occupies; with 0.5 GPUs two trials share one. retries: how often a
    trial is started again if its worker is lost.
    """

    address: str | None = None
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        # a trial with gpus=0 sees the same GPUs as this process
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise ValueError(MISSING) from error
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        # the second keeps Tune's workers in the working folder
        variables = {"PYTHONPATH": path_of_workers(), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
        options["runtime_env"] = {"env_vars": variables}
        if self.address:
            ray.init(address=self.address, **options)
        else:
            cpus, gpus = (math.ceil(self.workers * part) for part in (self.cpus, self.gpus))
            ray.init(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, **options)
        return self

    def __exit__(self, *_) -> None:
        import ray

        ray.shutdown()

    def work(
        self, workshop: Callable[[], Callable[[T], dict]], trials: Iterable[T]
    ) -> Iterator[tuple[T, dict | Exception]]:
        """Yields (trial, row) as trials end, in any order; for a failed trial its exception.

        workshop: called once in every worker, it returns the function that executes trials.
        """
        import ray

        remote = ray.remote(execute).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries
        )
        key, shared = repr(workshop), ray.put(workshop)  # the same plan stays loaded
        begun = {remote.remote(key, shared, trial): trial for trial in trials}
        while begun:
            (done, *_), _ = ray.wait(list(begun))
            trial = begun.pop(done)
            try:
                yield trial, ray.get(done)
            except ray.exceptions.RayError as error:
                yield trial, error


def path_of_workers() -> str:
    """Returns PYTHONPATH with the pack last, so that ComfyUI's modules come first."""
    own = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return os.pathsep.join([*own, str(PACK)])


def execute(key: str, workshop: Callable[[], Callable[[T], dict]], trial: T) -> dict:
    """Executes a trial in a worker, with the models that the worker has loaded for this sweep.

    key: the workshop's repr, by which the worker knows whether its models are those.
    """
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = workshop()
    start = time.monotonic()
    row = _loaded[key](trial)
    return row | {"worker": os.getpid(), "trial_seconds": time.monotonic() - start}
