"""MLflow: runs on a tracking server, and released exports in its registry."""

import os
import re
from collections.abc import Mapping
from itertools import islice

# By default, a request to a server that does not answer is repeated for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.time import get_current_time_millis

from albef.trackers import PROJECT, Run

_AT_ONCE = 100  # parameters of one request, by MLflow's limit
_LONGEST = 6000  # characters of a parameter, by MLflow's limit


class Tracker:
    """Run of MLflow; links are its tags."""

    def __init__(self, run: Run, id: str | None) -> None:
        self._client = MlflowClient()
        if id:
            self.id = id
            self._client.update_run(id, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self.id = self._client.create_run(number, run_name=run.name).info.run_id
        tags = [RunTag(f"albef.{name}", link) for name, link in run.links.items()]
        self._client.log_batch(self.id, tags=tags)
        params = iter([Param(key, text[:_LONGEST]) for key, text in run.values.items()])
        while batch := list(islice(params, _AT_ONCE)):
            self._client.log_batch(self.id, params=batch)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; "@" in a name becomes "_at_", because MLflow forbids it."""
        now = get_current_time_millis()
        metrics = [Metric(_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Add the final metrics and end the run."""
        self.log(0, metrics)
        self._client.set_terminated(self.id)


def _name(metric: str) -> str:
    return re.sub(r"[^\w\-./ :]", "_", metric.replace("@", "_at_"))


def register(name: str, version: str, stage: str, tags: Mapping[str, str], run: str | None) -> None:
    """Let a version of a released export hold a stage of MLflow's registry, as an alias.

    A new version, such as ``v0.1.0``, is registered with its tags, of which ``gate`` has the
    verdict, and with the id of the run of its training.
    """
    client = MlflowClient()
    found = client.search_registered_models(f"name = '{name}'")
    if not found:
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}'")
    numbers = [each.version for each in known if each.tags.get("version") == version]
    if not numbers:
        source = f"dvc:///{name}@{version}"  # for `dvc artifacts get`; MLflow requires a path
        values = {"version": version, **tags}
        made = client.create_model_version(name, source, run, values, await_creation_for=0)
        numbers = [made.version]
    client.set_registered_model_alias(name, stage, numbers[0])
