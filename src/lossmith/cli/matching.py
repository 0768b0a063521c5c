"""Which objectives fit a situation told in words: matching of words against what the cards declare, with the evidence kept.

A word of the question is met by a word of the card exactly (after its ending is taken off), or through a group of words that mean the
same to whoever chooses an objective. What the card was tagged with counts most, then when to use it and its name, then the rest.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lossmith.card import Card

FIELDS = {"tag": 3.0, "name": 3.0, "use when": 2.5, "claim": 2.0, "summary": 1.0}
"""Where a word may be met, and what that is worth."""

RELATED = 0.6
"""What a word of the same meaning is worth beside the very word."""

SYNONYMS = (
    ("noisy", "noise", "mislabelled", "mislabeled", "wrong", "corrupted", "flipped", "dirty", "crowdsourced", "weak"),
    ("robust", "outlier", "symmetric"),
    ("rare", "imbalance", "imbalanced", "unbalanced", "skewed", "long-tailed", "longtail", "tail", "minority", "infrequent", "rarest"),
    ("calibrated", "calibration", "probabilities", "probability", "proper", "confidence", "overconfident", "uncertainty"),
    ("hard", "difficult", "easy", "background"),
    ("margin", "hinge", "svm", "support", "separation"),
    ("segmentation", "pixel", "pixels", "mask", "voxel", "voxels", "overlap", "region", "dice", "iou", "medical"),
    ("multilabel", "multi-label", "tags", "several", "attributes"),
    ("binary", "yes", "yes-or-no", "two-class", "detection"),
    ("convex", "convexity"),
    ("baseline", "default", "standard", "start"),
    ("boosting", "exponential"),
    ("distillation", "distil", "distill", "teacher", "student", "compress", "compression"),
    ("many", "large", "thousands", "vocabulary"),
    ("worst", "fairness", "fair", "group", "subpopulation"),
    ("tune", "tunable", "parameter", "flexible"),
)
"""Groups of words that mean the same to whoever chooses an objective."""

IMPLIES = {"noisy": ("robust",), "robust": ("noisy",)}
"""First word of a group -> groups that answer it too."""

ASKED_BY = {"teacher": "distillation", "set": "segmentation", "multilabel": "multilabel", "binary": "binary"}
"""Form of an objective whose data are of another kind than rows of one label among classes -> the group of words that asks for it."""

OTHER_KIND = 0.5
"""What an objective for data of another kind is worth while nobody asked for that kind."""

NEGATED = re.compile(r"\b(?:not?|never|without|alone)\s+(?:only\s+)?[\w-]+")
"""What a text says it is not about."""

STOP = frozenset(
    (
        "a an and are as at be but by can do few for from has have i in is it its many me my not of on or our some that the them there "
        "these this to very want we what when where which who with you your need needs loss losses objective objectives classes class "
        "labels label data per image images"
    ).split()
)
"""Words that tell no situation from another. "few" and "labels" are among them: "few rare classes" is about rare."""


@dataclass(frozen=True)
class Match:
    """A card that fits: how well, and the evidence as (word of the question, word of the card, field)."""

    card: Card
    score: float
    evidence: tuple[tuple[str, str, str], ...]

    @property
    def why(self) -> str:
        """The evidence in words: ``noisy (tag), rare ~ imbalance (use when)``."""
        return ", ".join(f"{asked} ({where})" if asked == met else f"{asked} ~ {met} ({where})" for asked, met, where in self.evidence)


def words(text: str) -> list[str]:
    """The telling words of a text, lower case, in order, without repetition; a word after "no" or "not" tells nothing."""
    found = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", NEGATED.sub(" ", text.lower().replace("_", " ")))
    split = [part for word in found for part in dict.fromkeys([word, *word.split("-")])]
    return [word for word in dict.fromkeys(split) if word not in STOP]


def stem(word: str) -> str:
    """A word without its commonest endings, so that labels meets label and classifying meets classify."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 4 else word


_GROUPS = tuple(frozenset(map(stem, group)) for group in SYNONYMS)
_IMPLIED = {stem(word): tuple(map(stem, others)) for word, others in IMPLIES.items()}


def related(asked: str) -> set[str]:
    """Stems that answer a stem: those of its groups, and of the groups these imply."""
    mine = [group for group in _GROUPS if asked in group]
    implied = {other for group in mine for first, others in _IMPLIED.items() if first in group for other in others}
    return set().union(*mine, *(group for group in _GROUPS if group & implied)) - {asked}


def _group(first: str) -> frozenset[str]:
    return next(group for group in _GROUPS if stem(first) in group)


def declared(card: Card) -> dict[str, list[str]]:
    """What a card says of itself, field by field, as words."""
    # the claim "calibrated" is about predicting the likeliest class, not about probabilities as users mean the word
    held = [name for name in ("convex", "proper", "symmetric") if card.claims.value(name) is True]
    return {
        "tag": [*words(" ".join(card.tags)), *words(card.room)],
        "name": words(" ".join([card.name, *card.aliases])),
        "use when": words(card.use_when),
        "claim": held + (["bounded"] if card.claims.growth == "bounded" else []),
        "summary": words(card.summary),
    }


def rank(question: str, cards: Iterable[Card]) -> list[Match]:
    """The cards that meet a word of the question at least, the best first, equals by name.

    A word that few cards meet tells more than one that most meet, and is weighted so. Objectives for data of another kind (masks, several
    labels, yes-or-no answers) come after the others unless the question is about such data.
    """
    cards = list(cards)
    texts = {card.name: declared(card) for card in cards}
    asked = words(question)
    met = {word: {card.name: found for card in cards if (found := _best(word, texts[card.name]))} for word in asked}
    matches = []
    for card in cards:
        evidence, score = [], 0.0
        for word in asked:
            if card.name not in met[word]:
                continue
            worth, other, where = met[word][card.name]
            score += worth * math.log(1 + len(cards) / len(met[word]))
            evidence.append((word, other, where))
        if evidence:
            kind = ASKED_BY.get(card.form)
            wanted = kind is None or any(stem(word) in _group(kind) for word in asked)
            matches.append(Match(card, score if wanted else OTHER_KIND * score, tuple(evidence)))
    return sorted(matches, key=lambda match: (-match.score, match.card.name.casefold()))


def _best(word: str, text: Mapping[str, list[str]]) -> tuple[float, str, str] | None:
    """The best place where a card meets a word: its worth, the card's word, the field."""
    asked, alike = stem(word), related(stem(word))
    found = []
    for where, theirs in text.items():
        for other in theirs:
            root = stem(other)
            if root == asked:
                found.append((FIELDS[where], word, where))
            elif root in alike:
                found.append((FIELDS[where] * RELATED, other, where))
    return max(found, key=lambda entry: entry[0]) if found else None
