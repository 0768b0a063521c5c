"""MLflow: an experiment a study, a run a trial, and one more run with the final table."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from lossmith.study.loggers import facts
from lossmith.study.spec import StudySpec, TrialSpec

if TYPE_CHECKING:
    from lossmith.study.summary import Summary
    from lossmith.study.training.yardsticks import Yardstick

AT_ONCE = 1000
"""Metrics that MLflow takes in one call."""

PARAMETERS_AT_ONCE = 100

LONGEST = 500
"""Characters of a parameter that every version of MLflow takes."""

KEY = "lossmith.key"
"""The tag that says which trial a run is."""


class MLflow:
    """Runs in a tracking store.

    Args:
        location: a folder, whose ``mlflow.db`` is the store and which keeps the artifacts, or what MLflow takes as a tracking URI
            (``sqlite:///mlflow.db``, ``http://host:5000``); MLflow's own choice (MLFLOW_TRACKING_URI) when None.
    """

    def __init__(self, location: str | None = None) -> None:
        self.folder = None if location is None or "://" in location else Path(location).expanduser().absolute()
        # MLflow's own stores of plain files are in maintenance, and refused by its newer versions
        self.uri = location if self.folder is None else f"sqlite:///{(self.folder / 'mlflow.db').as_posix()}"

    def begin(self, study: StudySpec) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri=self.uri)
        name = facts.study_name(study)
        known = self.client.get_experiment_by_name(name)
        artifacts = None if self.folder is None else (self.folder / "artifacts").as_uri()
        self.experiment = self.client.create_experiment(name, artifacts) if known is None else known.experiment_id
        self.known = self._known()

    def _known(self) -> set[str]:
        """The keys of the trials that are here already, whole; a run that a killed process left half-done is taken away."""
        found, token = set(), None
        while True:
            page = self.client.search_runs([self.experiment], max_results=AT_ONCE, page_token=token)
            for run in page:
                key = run.data.tags.get(KEY)
                if key is not None and run.info.status == "RUNNING":
                    self.client.delete_run(run.info.run_id)
                elif key is not None:
                    found.add(key)
            token = page.token
            if not token:
                return found

    def trial(self, spec: "TrialSpec | Yardstick", record: Mapping[str, Any]) -> None:
        if spec.key in self.known:
            return
        run, now = self._run(facts.trial_name(spec), {KEY: spec.key, "lossmith.status": record["status"]}), _now()
        parameters = [Param(name, str(value)[:LONGEST]) for name, value in facts.parameters(spec).items()]
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(run, params=parameters[start : start + PARAMETERS_AT_ONCE])
        metrics = [Metric(_metric(name), value, now, epoch) for epoch, name, value in facts.curves(record)]
        self._measure(run, [*metrics, *(Metric(_metric(name), value, now, 0) for name, value in facts.numbers(record).items())])
        self.client.set_terminated(run, "FINISHED")
        self.known.add(spec.key)

    def end(self, summary: "Summary") -> None:
        rows, now = facts.table(summary), _now()
        for old in self.client.search_runs([self.experiment], "tags.`lossmith.summary` = 'true'"):
            self.client.delete_run(old.info.run_id)  # of the same study asked for again
        run = self._run("summary", {"lossmith.summary": "true", "mlflow.note.content": facts.markdown(summary, rows)})
        self._measure(run, [Metric(_metric(name), value, now, 0) for name, value in facts.table_numbers(rows).items()])
        self.client.log_text(run, rows.to_csv(index=False), "summary.csv")
        self.client.set_terminated(run, "FINISHED")

    def _run(self, name: str, tags: Mapping[str, str]) -> str:
        made = self.client.create_run(self.experiment, run_name=name)
        self.client.log_batch(made.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        return made.info.run_id

    def _measure(self, run: str, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(run, metrics=metrics[start : start + AT_ONCE])


def _metric(name: str) -> str:
    """A name that MLflow allows: letters, digits, and _-. :/"""
    return "".join(letter if letter.isalnum() or letter in "_-. :/" else "-" for letter in name)


def _now() -> int:
    return int(time.time() * 1000)
