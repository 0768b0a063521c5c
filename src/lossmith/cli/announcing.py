"""What ``lossmith compare`` says before it computes anything: the plan, and what it could show."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossmith.study import StudySpec
    from lossmith.study.grid import Claim
    from lossmith.study.power_across import ProspectAcross
    from lossmith.study.statistics.paired import Test
    from lossmith.study.statistics.power import Prospect

Lines = list[tuple[str, str]]


@dataclass(frozen=True)
class Plan:
    """What is about to be run.

    Attributes:
        lines: names and values, for a reader.
        facts: the same for a program.
    """

    lines: Lines
    facts: dict[str, Any]


def announce(specs: Sequence["StudySpec"], test: "Test", claim: "Claim", *, noise_report: bool = False) -> Plan:
    """The plan of one study, or of several that are run together; what could not be run is refused here."""
    from lossmith import study
    from lossmith.study.mislabelled import check_noise_report
    from lossmith.study.report.design import plan, planned
    from lossmith.study.report.suspected import afterwards
    from lossmith.study.sizes import sizes
    from lossmith.study.summary import prospect
    from lossmith.study.training.yardsticks import announced

    said: list[Lines] = []
    studies: list[dict[str, Any]] = []
    for spec in specs:
        dataset = spec.load()
        study.check(spec, dataset)
        rows, described, beside = sizes(spec, dataset), dataset.describe(), announced(spec, dataset)
        shown = prospect(spec, rows, test)
        lines = plan(spec, described, rows, test, shown, beside)
        if noise_report:
            check_noise_report(spec, dataset)
            lines.append(("noise report", afterwards(spec)))
        said.append([lines[0], *(("", note) for note in (*described["notes"], *described["warnings"])), *lines[1:]])
        studies.append(
            {
                "study": spec.as_dict(), "data": described, "sizes": asdict(rows), "trials": planned(spec)[0], "references": list(beside),
                "power": _power(shown),
            }
        )  # fmt: skip
    trials = sum(one["trials"] for one in studies)
    if len(specs) == 1:
        return Plan(said[0], {"test": test, "claim": None, "trials": trials, "power": studies[0]["power"], "studies": studies})
    together, shown = _together(specs, said, test, claim, trials)
    return Plan(together, {"test": test, "claim": claim, "trials": trials, "power": _power(shown), "studies": studies})


def _power(shown: "Prospect | ProspectAcross | None") -> dict[str, Any] | None:
    return None if shown is None else {**asdict(shown), "sentence": shown.sentence}


def _together(
    specs: Sequence["StudySpec"], said: Sequence[Lines], test: "Test", claim: "Claim", trials: int
) -> tuple[Lines, "Prospect | ProspectAcross | None"]:
    """The plan of several studies: what is each one's own, then what they share, then what they could show together."""
    from lossmith.study.grid import prospect_of
    from lossmith.study.sizes import sizes

    data = [line for lines in said for line in lines[: next(place for place, (name, _) in enumerate(lines) if name == "split")]]
    own = ("data", "", "split", "trials", "references", "power", "p-values")
    rows = sizes(specs[0], specs[0].load())
    shown = prospect_of(specs, rows.train, rows.test, claim, by=test)
    claims = {
        "these": "the average over these data sets, in every setting, each data set counting alike",
        "alike": "data sets like these, in every setting, by the exact signed-rank test over the data sets",
        "each": "each data set by itself, in every setting",
    }
    found = [*data, ("trials", f"{trials} in {len(specs)} studies"), *(line for line in said[0] if line[0] not in own)]
    found.append(("claim", f"{claims[claim]}; only this is tested, adjusted over all comparisons"))
    if shown is not None:
        sentence = shown.sentence
        found.append(("power", f"On each data set by itself, {sentence[0].lower()}{sentence[1:]}" if claim == "each" else sentence))
    return found, shown
