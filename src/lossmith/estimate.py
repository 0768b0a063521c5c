"""What a measure says of itself: a number from samples is never returned bare, but as an :class:`Estimate`."""

import math
from statistics import NormalDist
from typing import Literal, get_args

import torch

from lossmith._checks import describe
from lossmith._typing import Float, Tensor

Kind = Literal["estimate", "lower bound", "upper bound"]
_SAYS = {"estimate": "about", "lower bound": "at least", "upper bound": "at most"}
_FEW = 30
"""Fewer effective samples than this, and the normal interval is not to be trusted."""
_THIN = 0.1
"""A smaller share of effective samples than this, and a few samples carry the whole estimate."""


class Estimate:
    r"""A number found from samples: its value, what kind of statement it is, how sure, and what speaks against it.

    The value keeps its gradient, so that ``estimate.value.backward()`` trains on it; everything else is detached. Values are in nats. A
    batch of estimates is one record of tensors.

    Attributes:
        value: the number, a 0-d tensor or a batch of them.
        kind: "estimate" (unbiased or consistent), "lower bound" or "upper bound" (whose expectation is below or above the quantity).
        standard_error: of the value around its own expectation, or None where it is unknown. It says nothing of a bound's gap.
        n: how many samples it was found from.
        effective_n: how many equally weighted ones would be as good; n without weights.
        assumption: what has to hold for the standard error to be right, such as "independent samples from p".

    Example:
        >>> import torch
        >>> from lossmith import Estimate
        >>> Estimate.of_mean(torch.arange(100.0) / 100, assumption="independent samples")
        about 0.4950 ± 0.0290 nats: an estimate from n = 100, assuming independent samples
        >>> Estimate.of_mean(torch.tensor([0.0, 0.2, 9.0]), kind="lower bound", assumption="independent samples from p and q")
        at least 3.07 ± 2.97 nats: a lower bound from n = 3, assuming independent samples from p and q
        (warning: few samples: as good as 3; the standard error is itself uncertain)
    """

    value: Tensor
    kind: Kind
    standard_error: Tensor | None
    n: int
    effective_n: Tensor | float
    assumption: str
    _said: str | None
    _heaviest: Tensor | None

    def __init__(
        self,
        value: Float[Tensor, "*batch"],
        *,
        n: int,
        assumption: str,
        kind: Kind = "estimate",
        standard_error: Float[Tensor, "*batch"] | None = None,
        effective_n: Float[Tensor, "*batch"] | float | None = None,
        warning: str | None = None,
        heaviest: Float[Tensor, "*batch"] | None = None,
    ) -> None:
        """Put together an estimate whose parts are known; :meth:`of_mean` finds them from the terms of a mean.

        Args:
            value, n, assumption, kind, standard_error, effective_n: as the attributes.
            warning: what the estimator knows to be wrong, besides what can be read off the numbers.
            heaviest: the largest single term's share of the variance, if known; above 1/2 it is warned of.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"Estimate: kind must be one of {', '.join(map(repr, get_args(Kind)))}; got {kind!r}")
        fields = {
            "value": value,
            "kind": kind,
            "standard_error": None if standard_error is None else standard_error.detach(),
            "n": n,
            "effective_n": float(n) if effective_n is None else effective_n.detach() if isinstance(effective_n, Tensor) else effective_n,
            "assumption": assumption,
            "_said": warning,
            "_heaviest": None if heaviest is None else heaviest.detach(),
        }
        for name, field in fields.items():
            object.__setattr__(self, name, field)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Estimate: {name} cannot be set; an estimate does not change")

    @staticmethod
    def of_mean(
        terms: Float[Tensor, "n *batch"],
        weights: Float[Tensor, "n *batch"] | Float[Tensor, " n"] | None = None,
        *,
        assumption: str,
        kind: Kind = "estimate",
        effective_n: Float[Tensor, "*batch"] | float | None = None,
        warning: str | None = None,
    ) -> "Estimate":
        r"""The mean of independent terms over the first axis, with its standard error.

        .. math:: \hat m = \frac{\sum_i w_i t_i}{\sum_i w_i}, \qquad
            se^2 = \frac{n}{n-1} \frac{\sum_i w_i^2 (t_i - \hat m)^2}{(\sum_i w_i)^2}, \qquad
            n_{\text{effective}} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

        Without weights that is the sample mean, :math:`s / \sqrt n` and n; with them it is self-normalised importance sampling.

        Args:
            terms: one value a sample, in nats, `(n, *batch)`; gradients flow through them.
            weights: not negative, of the same shape or one a sample; they need not sum to 1. A weight of 0 removes the term, whatever it
                is.
            assumption, kind, warning: as for the constructor.
            effective_n: where the terms are weighted already, how many equal ones they are worth.

        Returns:
            The estimate; its standard error is None for a single term, and inf where the value is infinite.

        Raises:
            TypeError, ValueError: the terms are no floating-point tensor, there are none, or weights of another shape.

        Example:
            >>> import torch
            >>> from lossmith import Estimate
            >>> Estimate.of_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]), assumption="independent samples").value
            tensor(1.5000)
        """
        _check_terms("Estimate.of_mean: terms", terms)
        if weights is None:
            return Estimate.of_means(terms, assumption=assumption, kind=kind, effective_n=effective_n, warning=warning)
        n = terms.shape[0]
        if weights.shape not in (terms.shape, terms.shape[:1]):
            raise ValueError(f"Estimate.of_mean: weights must have shape {tuple(terms.shape)} or ({n},); got {tuple(weights.shape)}")
        weights = weights.reshape(weights.shape + (1,) * (terms.ndim - weights.ndim))
        share = (weights / weights.sum(0)).expand_as(terms)
        terms = torch.where(share == 0, 0, terms)
        value = (share * terms).sum(0)
        squares = (share * (terms - value)).detach().square()
        if effective_n is None:
            effective_n = 1 / share.square().sum(0)
        return Estimate(
            value,
            n=n,
            assumption=assumption,
            kind=kind,
            effective_n=effective_n,
            warning=warning,
            **_spread(value, squares * n / max(n - 1, 1), n),
        )

    @staticmethod
    def of_means(
        *terms: Float[Tensor, "_ *batch"],
        assumption: str,
        kind: Kind = "estimate",
        effective_n: Float[Tensor, "*batch"] | float | None = None,
        warning: str | None = None,
    ) -> "Estimate":
        r"""The sum of the means of independent samples, each over its first axis: of :math:`E_p s - E_q t`, or of strata.

        .. math:: \hat m = \sum_k \bar t_k, \qquad se^2 = \sum_k s_k^2 / n_k

        Args:
            terms: one value a sample, in nats, `(n_k, *batch)`, with the sign and weight that each mean has in the sum.
            assumption, kind, effective_n, warning: as for :meth:`of_mean`.

        Returns:
            The estimate; n counts all samples, and the standard error is None where a sample has a single term.

        Raises:
            TypeError, ValueError: some sample is no floating-point tensor, or empty.

        Example:
            >>> import torch
            >>> from lossmith import Estimate
            >>> Estimate.of_means(torch.arange(60.0), -torch.arange(40.0), assumption="independent samples of each")
            about 10.00 ± 2.92 nats: an estimate from n = 100, assuming independent samples of each
        """
        for part in terms:
            _check_terms("Estimate.of_means: every sample", part)
        means = [part.mean(0) for part in terms]
        sizes = [part.shape[0] for part in terms]
        squares = [((part - mean).detach() / n).square() * (n / max(n - 1, 1)) for part, mean, n in zip(terms, means, sizes, strict=True)]
        value = torch.stack(means).sum(0)
        return Estimate(
            value, n=sum(sizes), assumption=assumption, kind=kind, effective_n=effective_n, warning=warning,
            **_spread(value, torch.cat(squares), min(sizes)),
        )  # fmt: skip

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The two ends between which the value's expectation lies with this probability, by the normal distribution.

        For a bound this is an interval of the bound, not of what it bounds.

        Raises:
            ValueError: level is not between 0 and 1, or the standard error is unknown.

        Example:
            >>> import torch
            >>> from lossmith import Estimate
            >>> low, high = Estimate.of_mean(torch.arange(100.0) / 100, assumption="independent samples").interval()
            >>> print(f"{low:.3f} to {high:.3f}")
            0.438 to 0.552
        """
        if not 0 < level < 1:
            raise ValueError(f"Estimate.interval: level must be between 0 and 1; got {level!r}")
        if self.standard_error is None:
            raise ValueError("Estimate.interval: this estimate has no standard error")
        half = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.value.detach() - half, self.value.detach() + half

    @property
    def warning(self) -> str | None:
        """What speaks against the number, or None. Nothing else here reads values, so nothing else waits for a GPU."""
        said: list[str] = [self._said] if self._said else []
        value, effective = self.value.detach(), _least(self.effective_n)
        if bool(value.isnan().any()):
            said.append("not a number: some term is nan, or infinite terms cancel")
        if bool(value.isinf().any()):
            said.append("infinite: some term is")
        if effective < _THIN * self.n:
            said.append(f"a few samples carry it: the {self.n} are as good as {effective:.3g}")
        elif effective < _FEW:
            said.append(f"few samples: as good as {effective:.3g}; the standard error is itself uncertain")
        if self._heaviest is not None and self.n >= _FEW and bool((self._heaviest > 0.5).any()):
            said.append("one term makes most of the variance, as terms with heavy tails do; the standard error may be far too small")
        return "; ".join(said) or None

    def __float__(self) -> float:
        """The value of a single estimate, without its error."""
        return float(self.value)

    def __repr__(self) -> str:
        effective = _least(self.effective_n)
        weighted = "" if math.isclose(effective, self.n, rel_tol=1e-6) else f" (as good as {effective:.3g})"
        article = "a" if self.kind == "lower bound" else "an"
        text = f"{_SAYS[self.kind]} {self._numbers()} nats: {article} {self.kind} from n = {self.n}{weighted}, assuming {self.assumption}"
        return text if self.warning is None else f"{text}\n(warning: {self.warning})"

    def _numbers(self) -> str:
        values = self.value.detach().flatten().tolist()
        errors = [None] * len(values) if self.standard_error is None else self.standard_error.expand_as(self.value).flatten().tolist()
        if self.value.ndim == 0:
            return _plus_minus(values[0], errors[0])
        if len(values) <= 4:
            return "[" + ", ".join(map(_plus_minus, values, errors)) + "]"
        return f"{min(values):.4g} to {max(values):.4g} (a batch of {tuple(self.value.shape)})"


def _check_terms(what: str, terms: Float[Tensor, "n *batch"]) -> None:
    if not isinstance(terms, Tensor) or not terms.is_floating_point() or terms.ndim == 0:
        raise TypeError(f"{what} must be a floating-point tensor of shape (n, *batch); got {describe(terms)}")
    if terms.shape[0] == 0:
        raise ValueError(f"{what} must have at least one term along the first axis; got {describe(terms)}")


def _spread(value: Float[Tensor, "*batch"], squares: Float[Tensor, "n *batch"], smallest: int) -> dict[str, Float[Tensor, "*batch"] | None]:
    """The standard error and the largest single share in it, from what each term adds to the variance; unknown for single terms."""
    if smallest == 1:
        return {}
    variance = squares.sum(0)
    error = torch.where(value.detach().isinf(), torch.inf, variance.sqrt())
    return {"standard_error": error, "heaviest": squares.amax(0) / torch.where(variance > 0, variance, 1)}


def _least(effective_n: Float[Tensor, "*batch"] | float) -> float:
    if not isinstance(effective_n, Tensor):
        return float(effective_n)
    return float(effective_n.min()) if effective_n.numel() else math.inf


def _plus_minus(value: float, error: float | None) -> str:
    """The value to the digits that its error leaves, and at least four."""
    if error is None or not math.isfinite(error) or not math.isfinite(value) or error == 0:
        return f"{value:.4g}"
    digits = min(12, max(0, 2 - math.floor(math.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
