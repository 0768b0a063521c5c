"""What ``lossmith compare`` says before it computes anything: the plan, and what it could show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossmith.study import StudySpec
    from lossmith.study.grid import Claim
    from lossmith.study.statistics.paired import Test


def announce(specs: Sequence["StudySpec"], test: "Test", claim: "Claim", *, noise_report: bool = False) -> list[tuple[str, str]]:
    """Names and values, of one study or of several that are run together; what could not be run is refused here."""
    from lossmith import study
    from lossmith.study.mislabelled import check_noise_report
    from lossmith.study.report.suspected import afterwards
    from lossmith.study.report.words import plan
    from lossmith.study.sizes import sizes
    from lossmith.study.summary import prospect
    from lossmith.study.training.yardsticks import announced

    said = []
    for spec in specs:
        dataset = spec.load()
        study.check(spec, dataset)
        rows, described = sizes(spec, dataset), dataset.describe()
        lines = plan(spec, described, rows, test, prospect(spec, rows, test), announced(spec, dataset))
        if noise_report:
            check_noise_report(spec, dataset)
            lines.append(("noise report", afterwards(spec)))
        said.append([lines[0], *(("", note) for note in (*described["notes"], *described["warnings"])), *lines[1:]])
    return said[0] if len(specs) == 1 else _together(specs, said, claim)


def _together(specs: Sequence["StudySpec"], said: Sequence[Sequence[tuple[str, str]]], claim: "Claim") -> list[tuple[str, str]]:
    """The plan of several studies: what is each one's own, then what they share, then what they could show together."""
    from lossmith.study.grid import prospect_of
    from lossmith.study.report.words import planned
    from lossmith.study.sizes import sizes

    data = [line for lines in said for line in lines[: next(place for place, (name, _) in enumerate(lines) if name == "split")]]
    trials = sum(planned(spec)[0] for spec in specs)
    own = ("data", "", "split", "trials", "references", "power", "p-values")
    rows = sizes(specs[0], specs[0].load())
    prospect = prospect_of(specs, rows.train, rows.test, claim)
    claims = {
        "these": "the average over these data sets, in every setting, each data set counting alike",
        "alike": "data sets like these, in every setting, by the exact signed-rank test over the data sets",
        "each": "each data set by itself, in every setting",
    }
    found = [*data, ("trials", f"{trials} in {len(specs)} studies"), *(line for line in said[0] if line[0] not in own)]
    found.append(("claim", f"{claims[claim]}; only this is tested, adjusted over all comparisons"))
    if prospect is not None:
        found.append(("power", prospect.sentence))
    return found
