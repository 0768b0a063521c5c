"""Run the studies that ``lossmith find`` shows as evidence, and write what they found to ``src/lossmith/cli/evidence.json``.

    python benchmarks/evidence.py --store evidence --jobs 2

Each study is a line of `STUDIES`: the words of a situation, and the options of a ``lossmith compare``. To add evidence, add a line and run
this again; what is stored is not computed again, and a run that was killed goes on where it stopped. Nothing in the file is typed by hand.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossmith import study
from lossmith.study import protocol
from lossmith.study.report import numbers, words
from lossmith.study.results import StudyResult
from lossmith.study.summary import Line, Summary

OUT = Path(__file__).parents[1] / "src" / "lossmith" / "cli" / "evidence.json"


TUNER = "grid"
"""What these studies are tuned by: learning rates alone, so that objectives are compared with the hyper-parameters that are named."""


@dataclass(frozen=True)
class Wanted:
    """A study to run: the words of its situation, and its options as ``lossmith compare`` and `StudySpec` both read them."""

    situation: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def spec(self) -> study.StudySpec:
        return study.StudySpec(**self.options, tuner=TUNER)

    @property
    def command(self) -> str:
        return "lossmith compare " + " ".join(
            f"--{name.replace('_', '-')} {value}" for name, value in {**self.options, "tuner": TUNER}.items()
        )


STUDIES = (
    Wanted(
        ("noisy labels",),
        {
            "data": "digits",
            "noise": "symmetric:0.4",
            "objectives": "cross_entropy,generalized_cross_entropy:q=0.7,classification_mae,symmetric_cross_entropy,ldr_kl_loss",
            "seeds": 10,
        },
    ),
    Wanted(
        ("imbalance", "rare classes"),
        {
            "data": "digits",
            "imbalance": 0.02,
            "metric": "balanced_accuracy",
            "objectives": "cross_entropy,logit_adjusted,focal_loss,ldr_kl_loss",
            "seeds": 10,
        },
    ),
    Wanted(
        ("clean labels", "calibrated probabilities"),
        {"data": "breast_cancer", "metric": "log_loss", "objectives": "cross_entropy,brier_loss,focal_loss", "seeds": 10},
    ),
    Wanted(
        ("clean labels",),
        {"data": "breast_cancer", "objectives": "cross_entropy,brier_loss,focal_loss", "seeds": 10},
    ),
)


def recorded(wanted: Wanted, result: StudyResult) -> dict[str, Any]:
    """A finished study as the file keeps it."""
    summary = Summary(result)
    spec, sizes = summary.spec, summary.sizes
    return {
        "situation": list(wanted.situation),
        "setting": protocol.setting(spec, result.data["name"]),
        "data": spec.data,
        "noise": None if spec.noise is None else str(spec.noise),
        "imbalance": spec.imbalance,
        "model": spec.model,
        "metric": spec.metric,
        "higher_is_better": summary.metric.higher_is_better,
        "stop": spec.stop,
        "baseline": summary.baseline,
        "seeds": len(spec.seeds),
        "epochs": spec.epochs,
        "learning_rates": spec.budget,
        "test": summary.test,
        "rows": {"train": sizes.train, "validation": sizes.validation, "test": sizes.test},
        "versions": [dict(versions) for versions in result.versions],
        "warnings": list(result.notes),
        "command": wanted.command,
        "findings": [_finding(summary, line, spec.objectives[i].name) for i, line in enumerate(summary.lines())],
    }


def _finding(summary: Summary, line: Line, name: str) -> dict[str, Any]:
    found = line.comparison
    return {
        "name": name,
        "objective": line.objective,
        "mean": _finite(line.estimate.mean),
        "scaled": line.estimate.scaled,
        "at_edge": summary.at_edge(line.objective),
        "difference": None if found is None else _finite(found.mean_difference),
        "low": None if found is None else _finite(found.low),
        "high": None if found is None else _finite(found.high),
        "p_adjusted": None if found is None else found.p_adjusted,
        "verdict": "baseline" if found is None else found.verdict,
        "text": _text(summary, line),
    }


def _text(summary: Summary, line: Line) -> str:
    """``+1.1 points of accuracy [−1.6, +3.9]``; empty where nothing was measured against the baseline."""
    metric, found = summary.metric, line.comparison
    if found is None or not math.isfinite(found.mean_difference):
        return ""
    unit = f"points of {metric.title}" if numbers.percent(metric) else f"in {metric.title}"
    unit += "" if metric.higher_is_better else " (lower is better)"
    return f"{numbers.difference(metric, found.mean_difference)} {unit} {numbers.interval(metric, found.low, found.high)}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("lossmith-report"), help="folder of trials.sqlite (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=None, help="worker processes; one a processor when left out")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write (default: %(default)s)")
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    found = []
    for wanted in STUDIES:
        print(wanted.command, flush=True)
        result = study.run(wanted.spec, options.store / "trials.sqlite", jobs=options.jobs)
        print(f"  {words.headline(Summary(result))}", flush=True)
        found.append(recorded(wanted, result))
    text = json.dumps({"written_by": "benchmarks/evidence.py", "studies": found}, indent=2, ensure_ascii=False, allow_nan=False)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(f"{len(found)} studies: {options.out}")


if __name__ == "__main__":
    main()
