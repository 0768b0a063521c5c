"""TensorBoard: a folder a trial, with its curves and, for the tab of hyper-parameters, what it depends on and what it ended with."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lossmith.study.loggers import facts
from lossmith.study.spec import StudySpec, TrialSpec

if TYPE_CHECKING:
    from lossmith.study.summary import Summary
    from lossmith.study.training.yardsticks import Yardstick

UNFINISHED = ".unfinished"
SUMMARY = "summary"


class TensorBoard:
    """Event files below a folder: ``FOLDER/STUDY/TRIAL``, and the final table in ``FOLDER/STUDY/summary``.

    Args:
        location: the folder, ``runs`` when None.
    """

    def __init__(self, location: str | None = None) -> None:
        self.folder = Path(location or "runs").expanduser()

    def begin(self, study: StudySpec) -> None:
        self.study = self.folder / _file_name(facts.study_name(study))
        self.study.mkdir(parents=True, exist_ok=True)

    def trial(self, spec: "TrialSpec | Yardstick", record: Mapping[str, Any]) -> None:
        folder = self.study / _file_name(f"{facts.trial_name(spec)}, {spec.key[:8]}")
        if folder.exists():
            return
        numbers = facts.numbers(record)
        with _Events(folder) as events:
            file: Any = events._get_file_writer()  # add_hparams would make a folder of its own inside the trial's
            for summary in hparams({**facts.parameters(spec), "status": record["status"]}, numbers):
                file.add_summary(summary)
            for epoch, name, value in facts.curves(record):
                events.add_scalar(name, value, epoch)
            for name, value in numbers.items():
                events.add_scalar(name, value)

    def end(self, summary: "Summary") -> None:
        folder, rows = self.study / SUMMARY, facts.table(summary)
        shutil.rmtree(folder, ignore_errors=True)  # of the same study asked for again
        with _Events(folder) as events:
            events.add_text("summary", facts.markdown(summary, rows))
            for name, value in facts.table_numbers(rows).items():
                events.add_scalar(name, value)


class _Events:
    """An event file that is whole or not there: a process killed while it writes leaves only what the next one takes away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.half = folder, folder.with_name(folder.name + UNFINISHED)

    def __enter__(self) -> SummaryWriter:
        shutil.rmtree(self.half, ignore_errors=True)
        self.writer = SummaryWriter(str(self.half))
        return self.writer

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.writer.close()
        if kind is None:
            self.half.rename(self.folder)


def _file_name(text: str) -> str:
    """A text as the name of a folder, on any system."""
    return re.sub(r"[^\w.=@+-]+", "-", text).strip("-.")[-180:]
