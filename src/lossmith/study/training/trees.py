"""A forest of boosted trees as a model: a function of rows to scores, and how many of its rounds are counted."""

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossmith.study.errors import StudyError

TREES = {"xgboost": "boosted trees of XGBoost, for rows of features", "lightgbm": "boosted trees of LightGBM, for rows of features"}
"""The models that are trees, and what they are."""

VERSION = 1
"""Of how the trees are grown; a change of anything that moves the numbers raises it."""

RATES = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5)
"""The default tuning budget of shrinkage: as many as of learning rates."""


class Trees(nn.Module):
    """A forest that grows, as a function of rows to scores: those of its first `rounds` rounds.

    How many rounds there are is its only state, so that the forest at its best round is looked at as a network's best weights are.
    """

    rounds: Tensor

    def __init__(self, library: str, n_classes: int) -> None:
        super().__init__()
        self.library, self.n_classes = library, n_classes
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self.booster: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise StudyError(f"model {self.library} is made of steps: it has no gradient in its inputs")
        rounds = int(self.rounds)
        if rounds == 0 or len(x) == 0:
            return torch.zeros(len(x), self.n_classes)
        rows = flat(x)
        if self.library == "xgboost":
            scores = self.booster.inplace_predict(rows, iteration_range=(0, rounds), predict_type="margin")
        else:
            scores = self.booster.predict(rows, raw_score=True, num_iteration=rounds, num_threads=1)
        return torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float32).reshape(len(x), self.n_classes))


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
