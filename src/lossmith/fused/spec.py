"""Which statistics a call asks for, in the columns they are kept in, and at which temperatures."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lossmith.fused.reference import WANTED


class Spec(NamedTuple):
    """Which statistics, in the columns they are kept in: those of `WANTED` in its order, then one a further inverse temperature."""

    want: tuple[str, ...]
    betas: tuple[float, ...]

    @property
    def code(self) -> str:
        """The same as a word: operators and transforms take no tuples that are not of tensors."""
        return " ".join([*self.want, *(f"@{beta!r}" for beta in self.betas)])

    @classmethod
    def read(cls, code: str) -> "Spec":
        words = code.split()
        return cls(tuple(w for w in words if w[0] != "@"), tuple(float(w[1:]) for w in words if w[0] == "@"))

    @property
    def columns(self) -> int:
        return len(self.want) + len(self.betas)

    @property
    def whole(self) -> "Spec":
        """With what a backward pass has to know: the logsumexp always, the log-probability wherever there is a label."""
        extra = {"logsumexp", "log_prob"} if self.labelled else {"logsumexp"}
        return Spec(tuple(name for name in WANTED if name in self.want or name in extra), self.betas)

    @property
    def labelled(self) -> bool:
        return "log_prob" in self.want or "target_logit" in self.want

    def column(self, of: Tensor, name: str) -> Tensor | None:
        return of[:, self.want.index(name)] if name in self.want else None


def doublings(betas: Sequence[float]) -> list[list[int]]:
    """Inverse temperatures, the first of which is 1, in chains of which each is twice the one before: its exponentials are the squares.

    Three at most, since a square has twice the rounding; and what is twice 1 begins a chain, so that the last of all is 1 itself.
    """
    chains: list[list[int]] = []
    for i in sorted(range(len(betas)), key=betas.__getitem__):
        chain = next((c for c in chains if 2 * betas[c[-1]] == betas[i] and c[-1] != 0 and len(c) < 3), None)
        chains.append([i]) if chain is None else chain.append(i)
    return sorted(chains, key=lambda chain: 0 in chain)
