"""A search for settings on Ray Tune. Each setting is tried on one subject after the other; a
setting that is worse than most others were on the same subjects is stopped (ASHA, arXiv
1810.05934).

Every finished trial is a row of the table, as in a plan, so a second start repeats none.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..saying import log
from .on_ray import Cluster
from .plan import Trial
from .search import Search
from .table import Table, read_rows
from .work import Execute, Progress

try:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
except ImportError as error:
    raise ValueError(
        'Ray Tune is not installed: install it with `python -m pip install "ray[tune]"`.'
    ) from error


class Setting(tune.Trainable):
    """One setting in a worker. A step is one of its trials; the models stay loaded for the next."""

    def setup(
        self,
        config: dict,
        workshop: Callable[[], Execute],
        trials: dict[str, list[Trial]],
        table: Path,
        search: Search,
    ) -> None:
        """Loads the models; called once in a worker."""
        self.trials, self.table, self.search = trials, table, search
        self.reset_config(config)
        self.execute = workshop()

    def reset_config(self, new_config: dict) -> bool:
        """Begins another setting; returns True, which tells Tune that it can."""
        self.left, self.rows = list(self.trials[new_config["method"]]), []
        self.before, _ = read_rows(self.table)  # those of a lost worker too
        return True

    def step(self) -> dict:
        """Executes the next trial and returns its result for Tune."""
        trial = self.left.pop(0)
        try:
            row = self.before.get(trial) or self.execute(trial)
            score = self.search.score([*self.rows, row])
        except Exception as error:  # one setting of many; Record logs it
            return {"trial": trial, "failed": " ".join(str(error).split()), "done": True}
        self.rows.append(row)
        result = {"trial": trial, "row": row, "tried": len(self.rows), "score": score}
        return result | {"done": not self.left}


class Record(tune.Callback):
    """Writes the table and logs the progress, in the process that started the search.

    trials: by method.
    """

    def __init__(self, table: Table, trials: dict[str, list[Trial]]):
        self.table, self.trials, self.failed = table, trials, []
        self.progress = Progress(len(table.missing(sum(trials.values(), []))))

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        own: Trial = result["trial"]
        if "failed" in result:
            log.error("%s failed: %s", own.key, result["failed"][-500:])
            self.failed.append(own.key)
        elif own not in self.table.rows:
            self.table.add(own, result["row"])
            self.progress.log(own, result["row"])

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        log.error("%s failed: its worker was lost again and again", trial.config["method"])
        self.failed.append(trial.config["method"])

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        method = trial.config["method"]
        if missing := len(self.table.missing(self.trials[method])):
            self.progress.total -= missing
            total = len(self.trials[method])
            log.info("%s: stopped after %d of %d trials", method, total - missing, total)


def search_on(
    cluster: Cluster,
    search: Search,
    workshop: Callable[[], Execute],
    table: Table,
    wanted: list[Trial],
) -> None:
    """Tries the methods of the `wanted` trials. Raises RuntimeError at the end where some failed.

    cluster: its `with` block must have begun.
    """
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with verbose=0: Tune prints nothing
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the table is the log
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed has no score
    own: dict[str, list[Trial]] = {}
    for trial in wanted:
        own.setdefault(trial.method, []).append(trial)
    most = len(wanted) // len(own)
    path = table.path.resolve()
    record = Record(table, own)
    parameters = {"workshop": workshop, "trials": own, "table": path, "search": search}
    setting = tune.with_parameters(Setting, **parameters)
    setting = tune.with_resources(setting, {"CPU": cluster.cpus, "GPU": cluster.gpus})
    asha = ASHAScheduler("tried", "score", "max", most, min(search.first, most), search.reduction)
    scratch = path.parent / "tune"  # Tune's own files
    run = tune.RunConfig(
        name=scratch.name,
        storage_path=str(scratch.parent),
        failure_config=tune.FailureConfig(max_failures=cluster.retries),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        callbacks=[record],
        verbose=0,
    )
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    how = tune.TuneConfig(scheduler=asha, reuse_actors=True)
    space = {"method": tune.grid_search(list(own))}
    try:
        tune.Tuner(setting, param_space=space, tune_config=how, run_config=run).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if failed := record.failed:
        raise RuntimeError(
            f"{len(failed)} of {len(own)} settings failed, the first is {failed[0]} (see above). "
            "The trials of the others are in the table; start again to try them once more."
        )
