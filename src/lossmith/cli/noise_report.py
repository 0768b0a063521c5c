"""``lossmith compare --noise-report``: the search for wrong labels after the study, with its progress."""

from pathlib import Path
from typing import TYPE_CHECKING

from lossmith.cli.output import console
from lossmith.cli.problems import INTERRUPTED, Problem

if TYPE_CHECKING:
    from lossmith.study import StudyError, StudyResult, Suspects


def look_for_wrong_labels(result: "StudyResult", jobs: int | None, store: Path) -> tuple["Suspects | None", "StudyError | None"]:
    """The labels that look wrong, or why none could be looked for, with progress on stderr.

    Args:
        result: the study.
        jobs: worker processes.
        store: where its trials are, for the line that Ctrl-C leaves.
    """
    from lossmith import study
    from lossmith.cli.progress import Progress

    with Progress(console(stderr=True), "folds of the noise report") as progress:
        try:
            return study.suspects(result, jobs=jobs, on_progress=lambda done, all_: progress(done, all_, {} if done else None)), None
        except study.StudyError as error:
            return None, error
        except KeyboardInterrupt:
            raise Problem(
                f"stopped; the study's trials are kept in {store}; the same command does the noise report again", INTERRUPTED
            ) from None
