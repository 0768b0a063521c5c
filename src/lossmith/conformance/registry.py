"""What a check is, what comes of it, and the list of all checks.

A check looks at one :class:`~lossmith._subject.Subject` and returns a sentence on what it tried, or raises
:class:`Failed` with the smallest input it found, or :class:`Skipped` with the reason. It says what it tests, why that matters and what
usually causes a failure, so that a report can teach.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lossmith._checks import nearest
from lossmith._subject import Subject

ROWS = ("log_prob", "log_probs", "logits", "stateful")
ELEMENTS = ("binary", "multilabel")
SETS = ("set",)
PAIRS = ("teacher",)
FORMS = (*ROWS, *ELEMENTS, *SETS, *PAIRS)

Status = Literal["passed", "failed", "skipped", "unclaimed"]


class Failed(Exception):
    """A law does not hold: the sentence that says so, and the input that shows it."""

    def __init__(self, message: str, **example: Any) -> None:
        super().__init__(message)
        self.message, self.example = message, example


class Skipped(Exception):
    """A check that has nothing to ask of this subject, and why."""


class Unclaimed(Exception):
    """A property nobody claims: what the search found."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what it is called, in `only=` and in reports.
        tests: the law, in a sentence.
        why: what goes wrong for the user where it does not hold.
        cause: what usually breaks it.
        run: the check itself, `(subject, seed) -> what was tried`.
        forms: the forms it applies to.
        seeded: whether it searches at random, so that further seeds search further.
        on_request: run only where asked for by name: it is slow.
        surrogates: whether it applies to objectives whose value means nothing, and whose gradient is not the value's derivative.
    """

    name: str
    tests: str
    why: str
    cause: str
    run: Callable[[Subject, int], str]
    forms: tuple[str, ...] = FORMS
    seeded: bool = False
    on_request: bool = False
    surrogates: bool = False

    def __call__(self, subject: Subject, seeds: Iterable[int] = (0,)) -> "Outcome":
        """Run it, at the first seed only unless it is seeded."""
        seeds = tuple(seeds)
        start = time.process_time()
        status, said, example, at = "passed", "", {}, None
        for seed in seeds if self.seeded else seeds[:1]:
            status, said, example = self._once(subject, seed)
            if status == "failed":
                at = seed
                break
        return Outcome(self, status, said, example, at, time.process_time() - start)

    def _once(self, subject: Subject, seed: int) -> tuple[Status, str, dict[str, Any]]:
        if subject.form not in self.forms:
            return "skipped", f"does not apply to the form {subject.form!r}", {}
        if subject.card is not None and subject.card.surrogate and not self.surrogates:
            return "skipped", "only its gradient means something", {}
        try:
            return "passed", self.run(subject, seed), {}
        except Failed as failure:
            return "failed", failure.message, failure.example
        except Skipped as skipped:
            return "skipped", str(skipped), {}
        except Unclaimed as unclaimed:
            return "unclaimed", str(unclaimed), {}
        except Exception as error:  # whatever a user's function raises is a finding about it, not a crash of the suite
            line = (str(error).strip().splitlines() or [""])[0]
            return "failed", f"raised {type(error).__name__}: {line}", {}


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Attributes:
        status: "passed", "failed", "skipped", or "unclaimed" for a property nobody claims.
        said: what was tried, what failed, why it was skipped, or what the search found.
        example: the smallest failing input found, by name.
        seed: the seed that failed.
        seconds: CPU time.
    """

    check: Check
    status: Status
    said: str
    example: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float = 0.0

    def explain(self) -> str:
        """A failure in full: the law, what was found, the input, why it matters, the usual cause."""
        lines = [self.said, f"law: {self.check.tests}"]
        lines += [f"{name} = {show(value)}" for name, value in self.example.items()]
        lines += [f"why it matters: {self.check.why}", f"usual cause: {self.check.cause}"]
        return "\n".join(lines)


_checks: dict[str, Check] = {}


def register(**facts: Any) -> Callable[[Callable[[Subject, int], str]], Callable[[Subject, int], str]]:
    """Make a function `(subject, seed)` a check of the same name; `facts` are the fields of :class:`Check`."""

    def decorate(run: Callable[[Subject, int], str]) -> Callable[[Subject, int], str]:
        _checks[run.__name__] = Check(name=run.__name__, run=run, **facts)
        return run

    return decorate


def known_checks() -> dict[str, Check]:
    return dict(_checks)


def chosen(only: Iterable[str] | None) -> list[Check]:
    """The checks of these names; all but the slow ones when none are named."""
    if only is None:
        return [check for check in _checks.values() if not check.on_request]
    names = [only] if isinstance(only, str) else list(only)
    for name in names:
        if name not in _checks:
            raise ValueError(f"no check is called {name!r}{nearest(name, _checks)}; see lossmith.conformance.checks()")
    return [_checks[name] for name in names]


def show(value: Any) -> str:
    """A value as a person would type it."""
    if not isinstance(value, Tensor):
        return repr(value)
    if value.is_floating_point():
        value = value.detach().to(torch.float64)
    return _plain(value.tolist())


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def require(law: Callable[..., str | None], **example: Tensor) -> None:
    """Raise :class:`Failed` when a law is broken; a law returns None, or the sentence that says how it is broken.

    The example is shrunk first: rows that do not matter are dropped, then the numbers are rounded as far as the law stays broken.
    """
    said = law(**example)
    if said is None:
        return
    small = shrink(law, example)
    raise Failed(law(**small) or said, **small)


def shrink(law: Callable[..., str | None], example: dict[str, Tensor]) -> dict[str, Tensor]:
    def broken(candidate: dict[str, Tensor]) -> bool:
        try:
            return law(**candidate) is not None
        except Exception:  # a candidate that cannot be asked is no smaller example
            return False

    example = dict(example)
    n = next(iter(example.values())).shape[0] if next(iter(example.values())).ndim else 0
    for row in reversed(range(n)):
        keep = [i for i in range(n) if i != row]
        if not keep:
            break
        candidate = {k: v[keep] if v.ndim and v.shape[0] == n else v for k, v in example.items()}
        if broken(candidate):
            example, n = candidate, len(keep)
    for name, value in example.items():
        if not value.is_floating_point() or name == "target":
            continue
        for digits in range(3):
            candidate = {**example, name: torch.round(value, decimals=digits)}
            if broken(candidate):
                example = candidate
                break
    return example


def differ(a: Tensor, b: Tensor, rtol: float = 1e-9) -> bool:
    """Whether two tensors of values differ by more than rounding; infinities of the same sign agree, NaN never does."""
    if a.shape != b.shape:
        return True
    a, b = a.detach().to(torch.float64), b.detach().to(torch.float64)
    finite = b[b.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    return not torch.allclose(a, b, rtol=rtol, atol=rtol * scale)
