"""The options that objectives share, a TypedDict a form, documented here once.

An objective writes ``**options: Unpack[RowOptions]``; the decorator in :mod:`lossmith.card` completes its signature and docstring from
the tables below, so that an option is described in one place and cannot drift.
"""

from typing import Any, TypedDict

from torch import Tensor

from lossmith._typing import Over, Reduction


class RowOptions(TypedDict, total=False):
    """Options of the objectives on rows of class logits."""

    weight: Tensor | None
    sample_weight: Tensor | None
    ignore_index: int
    reduction: Reduction
    denominator: float | Tensor | None


class BinaryOptions(TypedDict, total=False):
    """Options of the objectives on single logits, binary and multi-label."""

    weight: Tensor | None
    pos_weight: Tensor | None
    sample_weight: Tensor | None
    ignore_index: int
    reduction: Reduction
    denominator: float | Tensor | None


class TeacherOptions(TypedDict, total=False):
    """Options of the objectives on pairs of rows, a student's and a teacher's."""

    sample_weight: Tensor | None
    reduction: Reduction
    denominator: float | Tensor | None


class SetOptions(TypedDict, total=False):
    """Options of the objectives on whole sets (an image, a batch, all ranks)."""

    weight: Tensor | None
    sample_weight: Tensor | None
    ignore_index: int
    over: Over
    group: Any
    reduction: Reduction


_ROWS = {"weight": None, "sample_weight": None, "ignore_index": -100, "reduction": "mean", "denominator": None}
_BINARY = {"weight": None, "pos_weight": None} | {k: v for k, v in _ROWS.items() if k != "weight"}
_PAIRS = {name: _ROWS[name] for name in ("sample_weight", "reduction", "denominator")}
_SETS = {
    "weight": None,
    "sample_weight": None,
    "ignore_index": -100,
    "over": "sample",
    "group": None,
    "reduction": "mean",
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "log_prob": _ROWS,
    "log_probs": _ROWS,
    "logits": _ROWS,
    "stateful": _ROWS,
    "binary": _BINARY,
    "multilabel": _BINARY,
    "set": _SETS,
    "teacher": _PAIRS,
}
"""Form of an objective -> the options it takes, with their defaults."""

_CLASS_WEIGHT = "weight: per class `(c,)`, a factor on the loss of that class; a mean divides by the total weight."
_LABEL_WEIGHT = "weight: per label `(l,)` (along axis 1) or 0-d, a factor on that label's loss; a mean divides by the total weight."
_DENOMINATOR = (
    "denominator: what a mean divides by instead, so that micro-batches and ranks sum to the full batch's value; see "
    "`lossmith.denominator`. An error with another reduction."
)
_REDUCTION = 'reduction: "mean" (over the total weight of what is kept; 0 with a zero gradient when nothing is), "sum" or "none".'
_ROW_DOC = [
    _CLASS_WEIGHT,
    "sample_weight: per row, in the shape of an index target; 0 removes the row, whatever it holds, NaN included.",
    "ignore_index: rows with this class index are removed, whatever they hold. Index targets only.",
    _REDUCTION,
    _DENOMINATOR,
]
_BINARY_DOC = [
    _LABEL_WEIGHT,
    "pos_weight: per label `(l,)` (along axis 1) or 0-d, a factor on the loss of the positive answer; not part of a mean's denominator.",
    "sample_weight: per element, or per row (the leading axes of the input); 0 removes it, whatever it holds.",
    "ignore_index: elements whose target is this number are removed, whatever they hold.",
    _REDUCTION,
    _DENOMINATOR,
]
_PAIR_DOC = [
    "sample_weight: per row, in the input's shape without the classes; 0 removes the row, whatever student and teacher hold there.",
    _REDUCTION,
    _DENOMINATOR,
]
_SET_DOC = [
    "weight: per class `(c,)`; a mean over (set, class) divides by the total weight.",
    "sample_weight: per element, in the shape of an index target; 0 removes the element, as deleting it would.",
    "ignore_index: elements with this class index are removed from numerator and denominator alike. Index targets only.",
    'over: what one set is: each "sample", the whole "batch", or the batches of all "ranks" together.',
    'group: the process group of over="ranks".',
    'reduction: "mean" over sets and classes, "sum", or "none": `(n, c)` for over="sample", else `(c,)`. There is no denominator '
    "contract: a set's loss is not a sum over its elements.",
]
_SPECIAL_DOC = {"binary": _BINARY_DOC, "multilabel": _BINARY_DOC, "set": _SET_DOC, "teacher": _PAIR_DOC}
DOCS: dict[str, list[str]] = {form: _SPECIAL_DOC.get(form, _ROW_DOC) for form in DEFAULTS}
