"""What a store holds, as records: the studies that were asked for, trials as they stand in the file, looks at test rows and answers about
them, and the labels that looked wrong."""

import hashlib
import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from lossmith.study.errors import one_line
from lossmith.study.spec import StudySpec


class StoredStudy(NamedTuple):
    """A study that was asked for: what, on data so described (`Dataset.describe` and the names of the references), and the keys of its
    trials in their order, those of the references last.

    With these it can be read again without the data, and without the modules its objectives and model come from.
    """

    spec: StudySpec
    data: Mapping[str, Any]
    keys: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What it is known by: what was asked, and of which trials, whose keys hold the content of the data and the sources of the code."""
        return hashlib.sha256(json.dumps([self.spec.as_dict(), sorted(self.keys)], sort_keys=True).encode()).hexdigest()

    def by_place(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """The keys by objective and split: they go split by split and objective by objective, those only tuned on first."""
        spec, keys = self.spec, iter(self.keys)
        places = [(objective.label, draw) for draw in (*spec.tuning_draws, *spec.draws) for objective in spec.objectives]
        counts = self.data.get("counts") or [spec.budget] * len(places)
        return {place: tuple(islice(keys, many)) for place, many in zip(places, counts, strict=True)}


class Looks(NamedTuple):
    """How often the test rows of some data were looked at before.

    Attributes:
        studies: other studies in the store that showed results on them.
        results: how many those were, one an objective and split.
    """

    studies: int = 0
    results: int = 0


NO_LOOKS = Looks()


class Look(NamedTuple):
    """A study whose results on test rows were shown: of which data, by what it asked, how many, and when first."""

    data: str
    question: str
    answers: int
    created: str


class Answered(NamedTuple):
    """A question to a hold-out: the means over validation and test rows, what was told, and when."""

    holdout: str
    question: str
    validation: float
    test: float
    answer: float
    created: str


class NoiseReport(NamedTuple):
    """The labels that looked wrong in a study's data.

    Attributes:
        study: the digest of the study.
        found: `Suspects.as_dict`, as JSON.
        probabilities: those of `Suspects`, as the bytes of float64 numbers.
        written: the SHA-256 of the file that lists them.
        created: when they were looked for.
        digest: of the record itself.
    """

    study: str
    found: str
    probabilities: bytes
    written: str
    created: str
    digest: str


class Row(NamedTuple):
    """A stored trial as it stands in the file."""

    key: str
    objective: str
    seed: int
    learning_rate: float
    status: str
    spec: str
    result: str
    created: str
    versions: str
    digest: str | None

    @property
    def name(self) -> str:
        return f"trial {self.objective}, seed {self.seed}, learning rate {self.learning_rate}"

    @property
    def problem(self) -> str:
        """What is wrong with the row; nothing where it is sound. Rows of earlier versions have no digest and are read more trustingly."""
        texts = (self.key, self.spec, self.result, self.versions)
        if not all(isinstance(text, str) for text in texts):
            return f"a value of the wrong type, {', '.join(sorted({type(text).__name__ for text in texts} - {'str'}))}"
        if self.digest is not None:  # a row that is whole is what was written, and need not be read to know so
            return "" if self.digest == digest_of(*texts) else "its digest does not fit"
        try:
            result, versions = json.loads(self.result), json.loads(self.versions)
        except ValueError as error:
            return f"no JSON: {one_line(error)}"
        return "" if isinstance(result, dict) and "status" in result and isinstance(versions, dict) else "no record of a trial"


def digest_of(*texts: str) -> str:
    """What a row is known by to be whole."""
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogateescape")).hexdigest()
