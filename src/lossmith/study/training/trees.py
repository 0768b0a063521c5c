"""A forest of boosted trees as a model: a function of rows to scores, and how many of its rounds are counted."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossmith.study.errors import StudyError

TREES = {"xgboost": "boosted trees of XGBoost, for rows of features", "lightgbm": "boosted trees of LightGBM, for rows of features"}
"""The models that are trees, and what they are."""

VERSION = 2
"""Of how the trees are grown; a change of anything that moves the numbers raises it."""

RATES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
"""The default tuning budget of shrinkage: as many as of learning rates."""


class Trees(nn.Module):
    """A forest that grows, as a function of rows to scores: those of its first `rounds` rounds.

    How many rounds there are is its only state, so that the forest at its best round is looked at as a network's best weights are.

    Rows that are asked for after every round can be followed: their scores are kept, and only the trees since are added. Both libraries
    add trees up one after the other, XGBoost in float32 and LightGBM in float64, and so it is done here: the scores are the same to the
    last bit, and the time of all rounds grows with their number, not with its square.
    """

    rounds: Tensor

    def __init__(self, library: str, n_classes: int) -> None:
        super().__init__()
        self.library, self.n_classes = library, n_classes
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self.booster: Any = None
        self._followed: list[_Followed] = []

    def follow(self, x: Tensor) -> None:
        """Keep the scores of these rows from round to round; they are held, and may not be changed in place."""
        self._followed.append(_Followed(x, flat(x)))

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise StudyError(f"model {self.library} is made of steps: it has no gradient in its inputs")
        rounds = int(self.rounds)
        if rounds == 0 or len(x) == 0:
            return torch.zeros(len(x), self.n_classes)
        known = next((one for one in self._followed if one.are(x)), None)
        if known is None or rounds < known.rounds:
            scores = self._scores(flat(x), 0, rounds)
        else:
            for k in range(known.rounds, rounds):
                newest = self._scores(known.rows, k, k + 1)
                known.scores, known.rounds = newest if known.scores is None else known.scores + newest, k + 1
            scores = known.scores
        return torch.from_numpy(np.array(scores, dtype=np.float32))

    def _scores(self, rows: NDArray[np.float32], first: int, end: int) -> NDArray[Any]:
        """What the trees of these rounds add to the scores, in the library's own precision."""
        if self.library == "xgboost":
            scores = self.booster.inplace_predict(rows, iteration_range=(first, end), predict_type="margin")
        else:
            scores = self.booster.predict(rows, raw_score=True, start_iteration=first, num_iteration=end - first, num_threads=1)
        return np.asarray(scores).reshape(len(rows), self.n_classes)


@dataclass
class _Followed:
    """Rows and their scores after so many rounds."""

    x: Tensor
    rows: NDArray[np.float32]
    scores: NDArray[Any] | None = None
    rounds: int = 0

    def are(self, x: Tensor) -> bool:
        """Whether these are the very same rows: no other tensor can lie where one that is held does."""
        return x.data_ptr() == self.x.data_ptr() and x.shape == self.x.shape and x.stride() == self.x.stride()


def check_trees(name: str) -> str:
    """What stands for the source of the trees in a trial's key; a StudyError where their library is missing."""
    return f"trees {VERSION}, {library_of(name).__version__}"


def flat(x: Tensor) -> NDArray[np.float32]:
    return x.detach().flatten(1).numpy()


def library_of(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise StudyError(f'model {name} needs {name}: pip install "lossmith[boosting]"') from None
