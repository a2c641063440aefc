"""A search for settings on Ray Tune: each is tried on a subject after the other, and one that is
worse than most others were on the same subjects is stopped there (ASHA, arXiv 1810.05934).

Every finished trial is a row of the same table as those of a plan, so a second start repeats none.
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
    """In a worker: one setting after the other, a step a trial of it; models stay loaded."""

    def setup(
        self,
        config: dict,
        workshop: Callable[[], Execute],
        trials: dict[str, list[Trial]],
        table: Path,
        search: Search,
    ) -> None:
        self.trials, self.table, self.search = trials, table, search
        self.reset_config(config)
        self.execute = workshop()

    def reset_config(self, new_config: dict) -> bool:
        """Begins another setting."""
        self.left, self.rows = list(self.trials[new_config["method"]]), []
        self.before, _ = read_rows(self.table)  # also of a worker that was lost
        return True

    def step(self) -> dict:
        trial = self.left.pop(0)
        try:
            row = self.before.get(trial) or self.execute(trial)
            score = self.search.score([*self.rows, row])
        except Exception as error:  # one setting of many; Record tells it
            return {"trial": trial, "failed": " ".join(str(error).split()), "done": True}
        self.rows.append(row)
        told = {"trial": trial, "row": row, "tried": len(self.rows), "score": score}
        return told | {"done": not self.left}


class Record(tune.Callback):
    """In the process that started the search: writes the table, tells how far it is.

    trials: of each method.
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
            self.progress.tell(own, result["row"])

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        log.error("%s failed: its worker was lost again and again", trial.config["method"])
        self.failed.append(trial.config["method"])

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        method = trial.config["method"]
        if missing := len(self.table.missing(self.trials[method])):
            self.progress.total -= missing
            whole = len(self.trials[method])
            log.info("%s: stopped after %d of %d trials", method, whole - missing, whole)


def search_on(
    cluster: Cluster,
    search: Search,
    workshop: Callable[[], Execute],
    table: Table,
    wanted: list[Trial],
) -> None:
    """Tries the methods of these trials; RuntimeError at the end where some failed.

    cluster: one that is entered.
    """
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with verbose=0: Tune prints nothing
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the table is the log
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed has no score
    own: dict[str, list[Trial]] = {}
    for trial in wanted:
        own.setdefault(trial.method, []).append(trial)
    most = len(wanted) // len(own)
    place = table.path.resolve()
    record = Record(table, own)
    told = {"workshop": workshop, "trials": own, "table": place, "search": search}
    setting = tune.with_parameters(Setting, **told)
    setting = tune.with_resources(setting, {"CPU": cluster.cpus, "GPU": cluster.gpus})
    asha = ASHAScheduler("tried", "score", "max", most, min(search.first, most), search.reduction)
    scratch = place.parent / "tune"  # Tune's own notes
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
