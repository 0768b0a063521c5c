"""``lossmith compare --noise-report``: the search for wrong labels after the study, with its progress, and what stores keep of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lossmith.cli.output import console
from lossmith.cli.problems import INTERRUPTED, Problem

if TYPE_CHECKING:
    from lossmith.study import StudyError, StudyResult, Suspects


def look_for_wrong_labels(result: "StudyResult", jobs: int | None, store: Path) -> tuple["Suspects | None", "StudyError | None"]:
    """The labels that look wrong, or why none could be looked for, with progress on stderr.

    Args:
        result: the study.
        jobs: worker processes.
        store: where its trials are, and what is found is kept.
    """
    from lossmith import study
    from lossmith.cli.progress import Progress

    with Progress(console(stderr=True), "folds of the noise report") as progress:
        try:
            found = study.suspects(
                result, jobs=jobs, store=store, on_progress=lambda done, all_: progress(done, all_, {} if done else None)
            )
            return found, None
        except study.StudyError as error:
            return None, error
        except KeyboardInterrupt:
            raise Problem(
                f"stopped; the study's trials are kept in {store}; the same command does the noise report again", INTERRUPTED
            ) from None


class Kept(NamedTuple):
    """What stores keep of noise reports: this study's, if there is one, and the SHA-256 of the files that list them."""

    suspects: "Suspects | None"
    written: frozenset[str]

    def of(self, suspects: "Suspects") -> "Kept":
        """The same with these as this study's."""
        return self._replace(suspects=suspects)


NOTHING_KEPT = Kept(None, frozenset())


def kept_by(stores: Sequence[Path], results: Sequence["StudyResult"]) -> Kept:
    """What these stores keep, the first one's before others'; several studies at once have no noise report."""
    from lossmith.study import Store
    from lossmith.study.noise_reports import kept

    found, written = None, set()
    for path in stores:
        with Store(path, reading=True) as store:
            written |= {report.written for report in store.noise_reports()}
            if found is None and len(results) == 1:
                found = kept(results[0].digest, store)
    return Kept(found, frozenset(written))
