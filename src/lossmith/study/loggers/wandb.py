"""Weights & Biases: a run a trial, grouped by study, and one more run with the final table.

Whether runs are uploaded is for its own settings to say: with WANDB_MODE=offline nothing leaves the machine until ``wandb sync``.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lossmith.study.loggers import facts
from lossmith.study.spec import StudySpec, TrialSpec

if TYPE_CHECKING:
    from lossmith.study.summary import Summary
    from lossmith.study.training.yardsticks import Yardstick


class WeightsAndBiases:
    """Runs of a project.

    Args:
        location: the project, ``lossmith`` when None.
    """

    def __init__(self, location: str | None = None) -> None:
        import wandb  # pyrefly: ignore[missing-import]  # belongs to no extra: --log wandb says what to install

        self.wandb, self.project = wandb, location or "lossmith"

    def begin(self, study: StudySpec) -> None:
        self.study = facts.study_name(study)

    def trial(self, spec: "TrialSpec | Yardstick", record: Mapping[str, Any]) -> None:
        with self._run(facts.trial_name(spec), spec.key, facts.parameters(spec), "trial") as run:
            for epoch, together in groupby(facts.curves(record), key=lambda one: one[0]):
                run.log({name: value for _, name, value in together}, step=epoch)
            run.summary.update({**facts.numbers(record), "status": record["status"]})

    def end(self, summary: "Summary") -> None:
        rows = facts.table(summary)
        with self._run("summary", self.study, {}, "summary") as run:
            run.log({"summary": self.wandb.Table(dataframe=rows)})
            run.summary.update({**facts.table_numbers(rows), "answer": facts.markdown(summary, rows)})

    @contextmanager
    def _run(self, name: str, key: str, config: Mapping[str, Any], kind: str) -> Iterator[Any]:
        # one id a trial and study: told again, it is the same run, whose steps are known already and are not counted twice
        number = hashlib.sha256(f"{self.study}\n{key}".encode()).hexdigest()[:16]
        # a run of the user's own that is under way stays theirs
        run = self.wandb.init(
            project=self.project, group=self.study, name=name, id=number, config=dict(config), job_type=kind, resume="allow",
            reinit="create_new",
        )  # fmt: skip
        try:
            yield run
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()
