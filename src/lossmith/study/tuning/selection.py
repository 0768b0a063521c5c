"""The rule that chooses among configurations, by what validation rows say."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lossmith.study.training.metrics import METRICS
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.validation import ValidationRecord


def score(metric: str, records: Sequence[Mapping[str, Any]], stop: str) -> float:
    """The metric on the validation rows, turned so that more is better, a mean over records; -inf where it is not defined on any."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    values = [_seen(record[stop])["val"][metric] for record in records]
    return -math.inf if any(value is None or math.isnan(value) for value in values) else sign * sum(values) / len(values)


def select(metric: str, tried: Mapping[Configuration, Sequence[Mapping[str, Any]]], stop: str) -> Configuration:
    """The configuration with the best metric on the validation rows, of the records of one objective on one split or several.

    A run that diverged comes after all that did not, a metric that is not defined after all that are, and of equals the smaller learning
    rate comes first.
    """

    def rank(configuration: Configuration) -> tuple[int, float, tuple[float, float, str]]:
        records = tried[configuration]
        diverged = sum(record["status"] != "ok" for record in records)
        return diverged, -score(metric, records, stop), configuration.order

    return min(tried, key=rank)


def most_chosen(chosen: Sequence[Configuration]) -> tuple[Configuration, int, int]:
    """The configuration chosen most often, the middle one by learning rate where several were; how often, and how many were so."""
    counts = Counter(chosen)
    most = max(counts.values())
    often = sorted((one for one, times in counts.items() if times == most), key=lambda one: one.order)
    return often[(len(often) - 1) // 2], most, len(often)


def _seen(epoch: Mapping[str, Any]) -> ValidationRecord:
    return epoch if isinstance(epoch, ValidationRecord) else ValidationRecord(epoch, 1)
