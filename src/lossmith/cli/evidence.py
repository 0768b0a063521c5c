"""What our own studies measured: read from `evidence.json`, picked by situation, and used to order objectives that fit equally well.

The file is written by ``benchmarks/evidence.py`` from finished studies; nothing in it is typed by hand. Reading it takes nothing beyond the
standard library, so that ``lossmith find`` works without the extra `compare`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from lossmith.card import Card
from lossmith.cli.matching import Match, related, stem, words

NEAR = 0.9
"""Objectives whose score is at least this share of the best of their group are ordered by what was measured."""

WEIGHT = {"better": 1, "worse": -1, "failed": -1}
"""What a verdict moves; every other one, and no study at all, moves nothing."""


@dataclass(frozen=True)
class Finding:
    """One objective in one study. The numbers are those of the metric that the study declared, at the stop it declared.

    Attributes:
        name: of the card.
        objective: with its hyper-parameters, as ``lossmith compare`` reads it.
        mean: over the seeds; None where every learning rate diverged.
        scaled: whether the probabilities were taken after temperature scaling.
        at_edge: seeds whose learning rate was the smallest or the largest tried, so that a better one may lie outside.
        difference: objective less baseline; None for the baseline itself, and where trials failed.
        low, high: its 95 % interval; None where there is none.
        p_adjusted: two-sided, after Holm over the study's comparisons.
        verdict: "baseline", "better", "worse", "no difference shown", "tied" or "failed".
        text: the difference and its interval in words.
    """

    name: str
    objective: str
    mean: float | None
    scaled: bool
    at_edge: int
    difference: float | None
    low: float | None
    high: float | None
    p_adjusted: float | None
    verdict: str
    text: str


@dataclass(frozen=True)
class Study:
    """A finished study: the situation it speaks of, what was run, and what was found.

    Attributes:
        situation: tags in the words that users ask with.
        setting: the data and what was done to them, in words.
        learning_rates: how many were tried for every objective inside each seed.
        rows: that train, validate and test in each seed.
        versions: of lossmith, torch and Python, once for each set that computed trials.
        warnings: what a reader must know before believing the numbers, in sentences.
        command: the line that runs it again.
        findings: the baseline first.
    """

    situation: tuple[str, ...]
    setting: str
    data: str
    noise: str | None
    imbalance: float | None
    model: str
    metric: str
    higher_is_better: bool
    stop: str
    baseline: str
    seeds: int
    epochs: int
    learning_rates: int
    test: str
    rows: Mapping[str, int]
    versions: tuple[Mapping[str, str], ...]
    warnings: tuple[str, ...]
    command: str
    findings: tuple[Finding, ...]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Study":
        """The study that `benchmarks/evidence.py` wrote down."""
        values: dict[str, Any] = {**plain, "findings": tuple(Finding(**one) for one in plain["findings"])}
        values |= {name: tuple(plain[name]) for name in ("situation", "versions", "warnings")}
        return cls(**values)

    def speaks_of(self, question: str) -> bool:
        """Whether a telling word of the question is met by a tag of the situation, exactly or by a word of the same meaning."""
        tags = {stem(word) for word in words(" ".join(self.situation))}
        return any(stem(word) in tags or related(stem(word)) & tags for word in words(question))


@dataclass(frozen=True)
class Measured:
    """A finding with the study it belongs to."""

    study: Study
    finding: Finding

    @property
    def sentence(self) -> str:
        """``wine, mlp, last epoch: +1.1 points of accuracy [−1.6, +3.9] against cross_entropy, no difference shown (10 seeds, ...)``."""
        study, found = self.study, self.finding
        hyper = found.objective.removeprefix(found.name).removeprefix(":")
        budget = f"{study.learning_rates} learning rates each" if study.learning_rates > 1 else "one learning rate for all"
        if study.learning_rates > 1 and 2 * found.at_edge > study.seeds:
            budget += f", on {found.at_edge} seeds at the edge of those tried"
        said = f"{found.text} against {study.baseline}, {found.verdict}" if found.text else f"{found.verdict} against {study.baseline}"
        scaled = ", after temperature scaling" if found.scaled else ""
        where = f"{study.setting}, {study.model}{', ' + hyper if hyper else ''}, {study.stop} epoch"
        return f"{where}: {said}{scaled} ({study.seeds} seeds, {budget})"

    @property
    def gain(self) -> float:
        """The difference, turned round where lower is better; 0 where there is none."""
        return (self.finding.difference or 0.0) * (1 if self.study.higher_is_better else -1)

    def as_dict(self) -> dict[str, Any]:
        """The finding with what was run, plain, for ``--json``."""
        study, found = self.study, self.finding
        asked = {field.name: getattr(study, field.name) for field in fields(study) if field.name != "findings"}
        return asked | {field.name: getattr(found, field.name) for field in fields(found) if field.name != "name"}


@cache
def all_studies() -> tuple[Study, ...]:
    """The studies that come with the package."""
    text = (resources.files("lossmith.cli") / "evidence.json").read_text(encoding="utf-8")
    return tuple(Study.from_dict(plain) for plain in json.loads(text)["studies"])


def measured(question: str, studies: Iterable[Study]) -> dict[str, list[Measured]]:
    """What the studies of such a situation found, by the name of the card."""
    found: dict[str, list[Measured]] = {}
    for study in studies:
        if study.speaks_of(question):
            for finding in study.findings:
                found.setdefault(finding.name, []).append(Measured(study, finding))
    return found


def unspoken(matches: Sequence[Match], cards: Iterable[Card], found: Mapping[str, Sequence[Measured]]) -> list[Match]:
    """Cards that were measured in such a situation though no word of theirs speaks of it: matches without a score."""
    known = {match.card.name for match in matches}
    return [Match(card, 0.0, ()) for card in cards if card.name in found and card.name not in known]


def reorder(matches: Sequence[Match], found: Mapping[str, Sequence[Measured]]) -> list[Match]:
    """The matches, best first as given, with those of (nearly) equal score ordered by what was measured.

    First those that studies declared better, then those without a difference shown or without a study, then those declared worse; among
    these by the mean difference to the baseline, no study counting as none; what is still equal keeps its order. A group is a run of
    scores that lie within `NEAR` of its first, so that what was measured never carries an objective past one that fits clearly better.
    """
    groups: list[list[Match]] = []
    for match in matches:
        if groups and match.score >= NEAR * groups[-1][0].score:
            groups[-1].append(match)
        else:
            groups.append([match])
    return [match for group in groups for match in sorted(group, key=lambda match: _place(found.get(match.card.name, ())))]


def _place(entries: Sequence[Measured]) -> tuple[float, float]:
    """Where an objective comes within its group: lower is earlier."""
    verdicts = sum(WEIGHT.get(entry.finding.verdict, 0) for entry in entries)
    sign = (verdicts > 0) - (verdicts < 0)
    return -sign, -sum(entry.gain for entry in entries) / max(1, len(entries))
