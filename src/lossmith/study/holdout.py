"""Test rows that are asked through Thresholdout, so that a study that goes on for months keeps numbers that mean something.

Each split's test rows are a hold-out of their own, with a budget of their own, which lasts over all studies in a store. A question is
what a trial reaches there; it is first asked of the validation rows, and as long as the test rows roughly agree, that is the answer. Asked
again, it has the answer it had. Everything else that was measured on test rows is left out of the result, for it would tell what
Thresholdout keeps back.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lossmith.diagnostics import HoldoutSpentError, Thresholdout
from lossmith.study.errors import StudyError
from lossmith.study.store import Store
from lossmith.study.stored import StoredStudy
from lossmith.study.tuning.validation import ValidationRecord

THRESHOLD, NOISE, BUDGET = 4.0, 0.25, 16
"""Over the square root of the number of test rows: how far validation and test may be apart, and the scale of the noise. With these the
threshold's own noise has the scale of the paper's experiment, one over that root. Then the answers that may come from the test rows of a
split: the square of the threshold times their number."""

FEWEST = 17
"""Test rows, below which no two accuracies differ by more than the threshold."""


def threshold(test_rows: int) -> float:
    """How far validation and test may be apart before test rows are heard."""
    return THRESHOLD / math.sqrt(test_rows)


class Holdout:
    """The test rows of the splits of a study, by way of Thresholdout.

    Args:
        study: whose data and way of splitting.
        store: remembers what was asked and answered.
    """

    def __init__(self, study: StoredStudy, store: Store) -> None:
        self._study, self._store = study, store

    def answer(self, draw: int, question: str, validation: float, test: float, test_rows: int) -> float:
        """What may be said of a trial's value on the test rows of a split.

        Args:
            draw: the number of the split.
            question: the trial's key and the epoch.
            validation, test: its values on validation and test rows.
            test_rows: how many there are.
        """
        spec = self._study.spec
        if test_rows < FEWEST:
            raise StudyError(f"--holdout thresholdout needs {FEWEST} test rows or more a split; here there are {test_rows}")
        of = [self._study.data["fingerprint"], spec.draws[draw], spec.folds, spec.validation, spec.test]
        name = hashlib.sha256(json.dumps(of).encode()).hexdigest()
        asked = self._store.answers(name)
        for one in asked:
            if one.question == question:
                return one.answer
        root = math.sqrt(test_rows)
        reusable = Thresholdout(
            None, None, threshold=threshold(test_rows), sigma=NOISE / root, budget=BUDGET,
            generator=torch.Generator().manual_seed(int(name[:15], 16)),
        )  # fmt: skip
        try:
            for one in asked:  # its state is what it was asked before, in stores that were united more than it would have answered
                reusable.compare(one.validation, one.test)
            answer = reusable.compare(validation, test)
        except HoldoutSpentError:
            seed, fold = spec.draws[draw]
            raise StudyError(
                f"--holdout thresholdout: the test rows of seed {seed}{'' if fold is None else f', fold {fold},'} have given all their "
                f"{BUDGET} answers (of {len(asked)} questions); other seeds, or new rows, have answers left"
            ) from None
        self._store.put_answer(name, question, validation, test, answer.value)
        return answer.value


def without_test(record: Mapping[str, Any], metrics: Sequence[str], metric: str) -> dict[str, Any]:
    """A trial's record without what was measured on test rows, in the form of a record."""
    seen = ValidationRecord(record)
    epochs = [{**epoch, "test": {metric: None}} for epoch in seen["epochs"]]
    stops = {stop: {**seen[stop], "test": dict.fromkeys(metrics), "reliability": []} for stop in ("last", "best")}
    return {**seen, "rows": record["rows"], "epochs": epochs, **stops}
