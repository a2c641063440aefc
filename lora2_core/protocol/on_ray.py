"""Trials on a Ray cluster: one a GPU, or a share of one; what a lost worker had begun is done again
elsewhere, and every row reaches the table as soon as it is there.

Ray is an optional extra: `python -m pip install ray`. The table has one writer, the process that
started the sweep. Its workers need the pack, ComfyUI, the data and the output folder at the same
paths, that is a shared disk.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .headless import PACK
from .plan import Trial
from .work import Execute

MISSING = "Ray is not installed: install it with `python -m pip install ray`."
_held: dict[str, Execute] = {}  # of this worker: what it has loaded


@dataclass(frozen=True)
class Cluster:
    """Where trials run: at an address (`auto` for a cluster that this machine belongs to), or on
    worker processes of this machine.

    cpus, gpus: what a trial takes; 0.5 GPUs lets two share one. retries: of a trial whose worker is
    lost.
    """

    address: str | None = None
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __enter__(self) -> Cluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        # a trial that claims no share of a GPU sees what this process sees
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise ValueError(MISSING) from error
        told = {"log_to_driver": False, "logging_level": logging.WARNING}
        # and Tune's workers stay in the folder that others are in
        own = {"PYTHONPATH": path_of_workers(), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
        told["runtime_env"] = {"env_vars": own}
        if self.address:
            ray.init(address=self.address, **told)
        else:
            cpus, gpus = (math.ceil(self.workers * part) for part in (self.cpus, self.gpus))
            ray.init(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, **told)
        return self

    def __exit__(self, *_) -> None:
        import ray

        ray.shutdown()

    def work(
        self, workshop: Callable[[], Execute], trials: Iterable[Trial]
    ) -> Iterator[tuple[Trial, dict | Exception]]:
        """Yields (trial, row) as trials finish, in any order; the exception of one that failed.

        workshop: called once in every worker process; it gives what executes trials there.
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
    """Returns PYTHONPATH with the pack last: ComfyUI's own modules are to come first."""
    own = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return os.pathsep.join([*own, str(PACK)])


def execute(key: str, workshop: Callable[[], Execute], trial: Trial) -> dict:
    """In a worker: a trial, by what it has loaded for this sweep."""
    if key not in _held:
        _held.clear()
        _held[key] = workshop()
    start = time.monotonic()
    row = _held[key](trial)
    return row | {"worker": os.getpid(), "trial_seconds": time.monotonic() - start}
