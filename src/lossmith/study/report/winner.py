"""``train_winner.py``: a script that trains the chosen objective again, for whoever wants the model and not only the answer."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import jinja2

import lossmith
from lossmith.study import protocol
from lossmith.study.data.sources import BUNDLED, SOURCES
from lossmith.study.references import is_reference
from lossmith.study.report import words
from lossmith.study.report.writing import write_whole
from lossmith.study.results import Outcome
from lossmith.study.spec import StudySpec
from lossmith.study.summary import Line, Summary
from lossmith.study.training.hubs import is_of_hub
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.training.trees import TREES
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.selection import most_chosen

FILE = "train_winner.py"


def winner(summary: Summary) -> str:
    """The best of the objectives shown to be better than the baseline; the baseline where none is."""
    sign = 1.0 if summary.metric.higher_is_better else -1.0

    def gain(line: Line) -> float:
        return sign * line.estimate.mean

    better = [line for line in summary.lines() if line.comparison is not None and line.comparison.verdict == "better"]
    return max(better, key=gain).objective if better else summary.baseline


def script(summary: Summary) -> str | None:
    """The script's text; None where the data was an object of somebody's program, which no script can name, and for trees."""
    spec, label = summary.spec, winner(summary)
    if spec.model in TREES or not isinstance(spec.data, str) or not _can_be_loaded(spec.data):
        return None
    outcomes = [one for one in summary.result.over(label) if one.status == "ok"]
    if not outcomes:
        return None
    configuration, chosen = _usual(outcomes, spec.unit)
    first = next(one for one in outcomes if one.configuration == configuration)
    epochs = spec.epochs if spec.stop == "last" else max(1, round(statistics.median(one.epoch for one in outcomes)))
    noise = None if spec.noise is None else f"Noise.parse({str(spec.noise)!r})"
    raw = METRICS[spec.metric].needs != "probabilities"  # others the study took after temperature scaling, which this is without
    environment = jinja2.Environment(  # Python and no HTML: every value below is written as a literal
        loader=jinja2.PackageLoader("lossmith.study.report"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    literals = {
        "data": spec.data, "target": spec.target, "group": spec.group, "split_column": spec.split_column, "clean_target": spec.clean_target,
        "duplicates": spec.duplicates, "text": spec.text, "tokenizer": spec.tokenizer,
        "objective": configuration.applied(_objective(spec, label)).label, "model": spec.model,
        "learning_rate": configuration.learning_rate, "weight_decay": configuration.weight_decay,
        "imbalance": spec.imbalance, "labels": spec.labels, "ood_classes": spec.ood_classes,
        "validation": spec.validation, "test": spec.test, "folds": spec.folds,
        "clean_validation": spec.clean_validation, "metrics": sorted({"accuracy", spec.metric} if raw else {"accuracy"}),
    }  # fmt: skip
    return environment.get_template("train_winner.py.j2").render(
        {name: repr(value) for name, value in literals.items()},
        label=_prose(label),
        title=_prose(protocol.setting(spec, summary.result.data["name"])),
        why=_prose(_why(summary, label)),
        place="" if spec.target is None else " Run it where the study was run, so that the file is found.",
        version=lossmith.__version__,
        reads_text=bool(spec.text) and is_of_hub(spec.model),
        chosen=chosen,
        stop=spec.stop,
        noise="None" if noise is None else noise,
        seed=first.seed,
        epochs=epochs,
        batch_size=spec.batch_size,
    )


def _usual(outcomes: Sequence[Outcome], unit: str) -> tuple[Configuration, str]:
    """The configuration that most splits chose, the middle one by learning rate where several did; and on how many it was chosen."""
    configuration, times, alike = most_chosen([one.configuration for one in outcomes])
    middle = "" if alike == 1 else f", in the middle of {alike} that were chosen as often"
    return configuration, f"{times} of {len(outcomes)} {unit}s{middle}"


def _objective(spec: StudySpec, label: str) -> ObjectiveSpec:
    return next(one for one in spec.objectives if one.label == label)


def write_winner(summary: Summary, folder: str | os.PathLike[str]) -> Path | None:
    """Write the script into a folder and return its path; None where there is none to write."""
    text = script(summary)
    return None if text is None else write_whole(Path(folder) / FILE, text.encode())


def _can_be_loaded(data: str) -> bool:
    """Whether `load_data` finds it by this text: a `Dataset` was stored by its name alone, which looks like nothing."""
    return data in BUNDLED or data.partition(":")[0] in SOURCES or is_reference(data) or Path(data).suffix != ""


def _why(summary: Summary, label: str) -> str:
    if label == summary.baseline:
        return f"It is the baseline: no objective was shown to be better. {words.headline(summary)}"
    return next(text for name, _, text in words.findings(summary) if name == label)


def _prose(text: str) -> str:
    """A text that can stand in a docstring, whatever it is made of."""
    return text.replace("\\", "/").replace('"', "'")
