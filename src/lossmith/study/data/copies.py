"""Rows of a table that repeat another: found, counted, and numbered so that splits can keep them together.

A test row whose twin was trained on measures memory. Rows are copies of each other when they are equal in every feature, whatever their
labels; copies with different labels also show how often the labels contradict themselves.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Copies:
    """Which rows are equal.

    Attributes:
        numbers: `(n,)`, the same number for equal rows.
        repeated: rows that are equal to an earlier one.
        contradicting: rows among copies that do not all have the same label.
    """

    numbers: NDArray[np.int64]
    repeated: int
    contradicting: int

    def notes(self, duplicates: str) -> list[str]:
        """What was found, in a sentence."""
        if not self.repeated:
            return []
        rows = "row repeats" if self.repeated == 1 else "rows repeat"
        said = f"{self.repeated} of {len(self.numbers)} {rows} an earlier one in every feature"
        if self.contradicting:
            said += f" ({self.contradicting} rows have copies with another label: no model can be right about all of them)"
        kept = "copies stay together in training, validation or test" if duplicates == "together" else "they are split like all others"
        return [f"{said}; {kept}"]

    def warnings(self, duplicates: str, trusted: str | None) -> list[str]:
        """What may mislead: labels that contradict each other, copies on both sides of a split, or mere coincidences taken for copies.

        Args:
            duplicates: as `Roles` has it.
            trusted: the column that test rows are scored by instead, if there is one.
        """
        said: list[str] = []
        if self.contradicting and trusted is None:
            said.append(
                f"{self.contradicting} rows have copies with another label: the columns do not settle the label, or some labels are wrong. "
                "Scores against wrong labels favour fitting the noise; --clean-target scores by labels known to be right."
            )
        if self.repeated and duplicates == "apart":
            said.append(
                f"{self.repeated} rows repeat an earlier one and are split like all others (--duplicates apart): test rows may equal rows "
                "trained on. If they are copies and no coincidences, their scores measure memory."
            )
        elif 2 * self.repeated > len(self.numbers):
            said.append(
                f"Only {len(self.numbers) - self.repeated} of {len(self.numbers)} rows are different. If they are separate cases that "
                "coincide because the columns take few values, and not copies, split them like any others with --duplicates apart."
            )
        return said


def find_copies(features: NDArray[np.float64], labels: NDArray[np.int64]) -> Copies:
    """Which rows of `features` are equal; two missing values are."""
    numbers = np.zeros(len(features), dtype=np.int64)
    for column in features.T:
        codes, values = pd.factorize(column, use_na_sentinel=False)
        numbers, _ = pd.factorize(numbers * len(values) + codes)
    distinct = int(numbers.max()) + 1
    low, high = np.full(distinct, labels.max()), np.zeros(distinct, dtype=np.int64)
    np.minimum.at(low, numbers, labels)
    np.maximum.at(high, numbers, labels)
    return Copies(numbers.astype(np.int64), len(features) - distinct, int((low < high)[numbers].sum()))
