"""The reusable hold-out: adaptive questions to a test set, answered so that the answers cannot be fitted to its rows."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossmith._checks import describe


class HoldoutSpentError(RuntimeError):
    """The hold-out has given all the answers of its own that it can: further ones would be fitted to its rows."""


class Answer(NamedTuple):
    """What a query was told.

    Attributes:
        value: the estimate of the query's mean over new rows.
        from_holdout: whether it comes from the hold-out, with noise, since training rows disagreed; one of the budget is then spent.
    """

    value: float
    from_holdout: bool


class Thresholdout:
    r"""A hold-out set that may be asked again and again, each question chosen by the answers before.

    Choosing among many models by their score on the same test rows fits the choice to these rows: with 10,000 useless features, selecting
    those that a hold-out confirms makes a classifier that seems to be right on 63 % of it and is right on 50 % of new rows. Thresholdout
    answers with the mean over *training* rows as long as the hold-out agrees, so that nothing is learnt about its rows; where it does not,
    the answer is the hold-out's mean with Laplace noise, and one of a limited number of such answers is spent:

    .. math:: a = \begin{cases} \bar\varphi_h + \xi & |\bar\varphi_h - \bar\varphi_t| > T + \gamma + \eta \\
                                \bar\varphi_t & \text{otherwise} \end{cases}, \qquad
              \gamma \sim \mathrm{Lap}(2\sigma),\; \eta \sim \mathrm{Lap}(4\sigma),\; \xi \sim \mathrm{Lap}(\sigma),

    with gamma drawn anew after each answer from the hold-out, eta and xi for each query. If :math:`T = 3\tau/4` and
    :math:`\sigma = \tau / (96 \ln(4m/\beta))`, m adaptive queries are all answered to within tau of the truth with probability
    :math:`1 - \beta`, for a hold-out of some :math:`\sqrt{B} \ln m / \tau^2` rows (up to constants and logarithms). In practice, T of a few
    times :math:`1/\sqrt n` and sigma of about :math:`1/\sqrt n` or less, for n rows in the hold-out, keep most of that.

    Args:
        train: what queries are first asked of: rows the analyst may see as often as he likes.
        holdout: the rows kept from him, of the same kind.
        threshold: T, how far the two may be apart, above 0.
        sigma: the scale of the noise, 0 or above; 0 leaves nothing of the guarantee.
        budget: B, how many answers may come from the hold-out.
        generator: draws the noise, on the CPU; torch's default one when left out.

    Raises:
        HoldoutSpentError: on a query after the budget is spent; the paper's algorithm then answers nothing.

    References:
        Dwork, Feldman, Hardt, Pitassi, Reingold & Roth 2015, "The reusable holdout: Preserving validity in adaptive data analysis",
        Science 349 (6248); the guarantee as in their "Guilt-free data reuse", CACM 60 (4), 2017, theorem 9.

    Example:
        >>> import torch
        >>> from lossmith.diagnostics import Thresholdout
        >>> rows = torch.arange(100.0)
        >>> reusable = Thresholdout(rows, rows + 50, threshold=0.1, sigma=0.01, budget=2, generator=torch.Generator().manual_seed(0))
        >>> reusable(lambda x: (x >= 0).float())  # the same on both: the answer is that of the training rows
        Answer(value=1.0, from_holdout=False)
        >>> answer = reusable(lambda x: (x < 50).float())  # half of the training rows, none of the others
        >>> answer.from_holdout, abs(answer.value) < 0.1, reusable.budget
        (True, True, 1)
    """

    def __init__(
        self, train: Any, holdout: Any, *, threshold: float, sigma: float, budget: int, generator: torch.Generator | None = None
    ) -> None:
        if not (isinstance(threshold, (int, float)) and 0 < threshold < math.inf):
            raise ValueError(f"Thresholdout: threshold must be a number > 0; got {describe(threshold)}")
        if not (isinstance(sigma, (int, float)) and 0 <= sigma < math.inf):
            raise ValueError(f"Thresholdout: sigma must be a number >= 0; got {describe(sigma)}")
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
            raise ValueError(f"Thresholdout: budget must be a whole number >= 0; got {describe(budget)}")
        self._train, self._holdout = train, holdout
        self.threshold, self.sigma, self.budget = float(threshold), float(sigma), budget
        self.queries = 0
        self._generator = generator
        self._gamma = self._laplace(2 * self.sigma)

    def __call__(self, query: Callable[[Any], Tensor]) -> Answer:
        """Ask for the mean of a query over new rows.

        Args:
            query: given rows of the kind of `train` and `holdout`, its value on each, `(n,)`, numbers in [0, 1]: whether a model is right,
                for one. Booleans count as 0 and 1.
        """
        self._refuse_if_spent()
        return self.compare(_mean(query(self._train), "training"), _mean(query(self._holdout), "hold-out"))

    def compare(self, train: float, holdout: float) -> Answer:
        """The same, for who has computed both means himself; the second is not to be shown to anybody else."""
        for name, value in (("train", train), ("holdout", holdout)):
            if not 0 <= value <= 1:
                raise ValueError(f"Thresholdout: {name} must be a mean of values in [0, 1]; got {value}")
        self._refuse_if_spent()
        self.queries += 1
        apart = abs(holdout - train) > self.threshold + self._gamma + self._laplace(4 * self.sigma)
        if not apart:
            return Answer(float(train), from_holdout=False)
        answer = Answer(holdout + self._laplace(self.sigma), from_holdout=True)
        self.budget -= 1
        self._gamma = self._laplace(2 * self.sigma)
        return answer

    def _refuse_if_spent(self) -> None:
        if self.budget < 1:
            raise HoldoutSpentError(
                f"Thresholdout: the budget is spent after {self.queries} queries; an answer now would be fitted to the hold-out's rows"
            )

    def _laplace(self, scale: float) -> float:
        """A Laplace number of that scale: the difference of two exponential ones."""
        first, second = torch.empty(2, dtype=torch.float64).exponential_(generator=self._generator).tolist()
        return scale * (first - second)

    def __repr__(self) -> str:
        return f"Thresholdout(threshold={self.threshold:g}, sigma={self.sigma:g}, budget={self.budget}, queries={self.queries})"


def _mean(values: Tensor, of: str) -> float:
    if not isinstance(values, Tensor) or values.ndim != 1 or not len(values):
        raise ValueError(f"Thresholdout: a query must give a value for each of the {of} rows, (n,); got {describe(values)}")
    values = values.double()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"Thresholdout: a query's values must lie in [0, 1]; those of the {of} rows go from {values.min()} to {values.max()}"
        )
    return float(values.mean())
