"""What an examination found, to read in a terminal, to keep as JSON, and to act on."""

import textwrap
from dataclasses import dataclass
from typing import Any

from lossmith._subject import Subject
from lossmith.card import Card
from lossmith.conformance.registry import Outcome, Status, show

WIDTH = 110
PROPERTIES = ("convex", "proper", "calibrated", "symmetric", "shift_invariant", "class_symmetric", "growth", "bounds")


@dataclass(frozen=True)
class Report:
    """The outcomes of all checks of one objective; `failed` says whether something is wrong."""

    subject: Subject
    outcomes: tuple[Outcome, ...]
    seeds: tuple[int, ...]

    @property
    def failed(self) -> bool:
        return any(outcome.status == "failed" for outcome in self.outcomes)

    def of(self, status: Status) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def __getitem__(self, check: str) -> Outcome:
        """The outcome of one check, by its name."""
        return next(outcome for outcome in self.outcomes if outcome.check.name == check)

    def text(self) -> str:
        """The report as plain text: the verdict, every failure in full, the claims, what passed and what was skipped and why."""
        blocks = [self._heading(), *map(self._failure, self.of("failed")), self._claims(), self._passed(), self._skipped()]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _heading(self) -> str:
        subject = self.subject
        settings = "; ".join(_setting(s) for s in subject.settings)
        origin = "its card" if subject.card else "no card"
        fixed = f", with {_setting(subject.fixed)}" if subject.fixed else ""
        n = {status: len(self.of(status)) for status in ("passed", "failed", "skipped", "unclaimed")}
        verdict = f"{n['failed']} FAILED" if n["failed"] else "all that ran passed"
        counts = f"{n['passed']} passed, {n['failed']} failed, {n['skipped']} skipped, {n['unclaimed']} properties nobody claims"
        tried = f"form {subject.form!r}{fixed}, {origin}; settings: {settings}; seeds: {', '.join(map(str, self.seeds))}"
        return f"{subject.name}: {verdict}\n{_wrap(tried, 2)}\n{_wrap(f'{len(self.outcomes)} checks: {counts}', 2)}"

    def _failure(self, outcome: Outcome) -> str:
        check = outcome.check
        lines = [f"FAILED {check.name}", _wrap(outcome.said, 2), _item("law", check.tests)]
        if outcome.example:
            lines.append("  smallest failing input found:")
            lines += [_wrap(f"{name} = {show(value)}", 4) for name, value in outcome.example.items()]
        lines += [_item("why it matters", check.why), _item("usual cause", check.cause)]
        if outcome.seed:
            lines.append(f"  found at seed {outcome.seed}")
        return "\n".join(lines)

    def _claims(self) -> str:
        found = [outcome for outcome in self.outcomes if outcome.check.name in PROPERTIES]
        if not found:
            return ""
        lines = ["Claims (a search that finds nothing is evidence, not a proof)"]
        for outcome in found:
            lines.append(_item(f"{outcome.check.name:<16}{self._claim(outcome)}", _evidence(outcome), 40))
        return "\n".join(lines)

    def _claim(self, outcome: Outcome) -> str:
        if self.subject.claims is None:
            return "not claimed"
        value = self.subject.claims.value(outcome.check.name)
        if value is None:
            return "not claimed"
        if outcome.check.name == "bounds":
            return "claimed"
        return f"claimed {value}"

    def _passed(self) -> str:
        passed = [outcome for outcome in self.of("passed") if outcome.check.name not in PROPERTIES]
        return "\n".join(["Passed", *(_item(o.check.name, o.said) for o in passed)]) if passed else ""

    def _skipped(self) -> str:
        skipped = [outcome for outcome in self.of("skipped") if outcome.check.name not in PROPERTIES]
        return "\n".join(["Skipped", *(_item(o.check.name, o.said) for o in skipped)]) if skipped else ""

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain Python, for JSON."""
        card: Card | None = self.subject.card
        return {
            "objective": self.subject.name,
            "form": self.subject.form,
            "card": card is not None,
            "settings": [{k: _plain(v) for k, v in s.items()} for s in self.subject.settings],
            "seeds": list(self.seeds),
            "failed": self.failed,
            "checks": [
                {
                    "name": outcome.check.name,
                    "status": outcome.status,
                    "said": outcome.said,
                    "example": {name: show(value) for name, value in outcome.example.items()},
                    "seed": outcome.seed,
                    "seconds": round(outcome.seconds, 4),
                    "tests": outcome.check.tests,
                    "why": outcome.check.why,
                    "cause": outcome.check.cause,
                }
                for outcome in self.outcomes
            ],
        }


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else show(value)


def _setting(setting: Any) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in setting.items()) or "defaults"


def _evidence(outcome: Outcome) -> str:
    return {"failed": "FAILED, see above", "skipped": f"not tested: {outcome.said}"}.get(outcome.status, outcome.said)


def _wrap(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False)


def _item(name: str, text: str, column: int = 28) -> str:
    """A name in one column, wrapped text in the next."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {name:<{column - 2}}",
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
    )
