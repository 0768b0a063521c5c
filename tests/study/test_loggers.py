"""Trackers are told the numbers of the store, each trial once, and cost a study nothing when they fail."""

import json
import struct
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossmith import study
from lossmith.study import StudyError, StudySpec
from lossmith.study.loggers import log as logs
from lossmith.study.loggers.log import Log
from lossmith.study.tuning.configuration import Configuration

SMALL = {"objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 2, "epochs": 2, "learning_rates": [0.01, 0.1]}


def small(**changes) -> StudySpec:
    return StudySpec(data="wine", **SMALL | changes)


class Listener:
    """A logger that remembers what it was told."""

    def __init__(self):
        self.told = []

    def begin(self, study):
        self.told.append(("begin", study))

    def trial(self, spec, record):
        self.told.append(("trial", spec, record))

    def end(self, summary):
        self.told.append(("end", summary))

    @property
    def kinds(self):
        return [one[0] for one in self.told]

    @property
    def keys(self):
        return [one[1].key for one in self.told if one[0] == "trial"]


class Broken(Listener):
    """Fails whenever it is told one of these things."""

    def __init__(self, *fails):
        super().__init__()
        self.fails, self.calls = fails, 0

    def trial(self, spec, record):
        self.calls += 1
        self._fail("trial")

    def begin(self, study):
        self._fail("begin")

    def end(self, summary):
        self._fail("end")

    def _fail(self, what):
        if what in self.fails:
            raise OSError(f"no space for {what}")


def test_a_logger_is_told_of_every_trial_and_of_the_result():
    one, two = Listener(), Listener()
    result = study.run(small(), jobs=1, log=[one, two])
    assert one.kinds == two.kinds == ["begin", *["trial"] * 8, "end"]
    assert len(set(one.keys)) == 8
    for _, spec, record in one.told[1:-1]:
        stored = result.trials[spec.objective.label, spec.seed, Configuration(spec.learning_rate)]
        assert record["last"]["test"] == stored["last"]["test"]
    assert one.told[-1][1].lines()[1].estimate.mean == pytest.approx(result.values()[1].mean())


def test_workers_tell_nothing_themselves(tmp_path):
    """Their processes would tell another copy of the logger, and this one nothing."""
    heard = Listener()
    study.run(small(), tmp_path / "s.sqlite", jobs=2, log=heard)
    assert heard.kinds.count("trial") == 8


def test_a_study_that_goes_on_tells_what_was_stored_before(tmp_path):
    study.run(small(seeds=1), tmp_path / "s.sqlite", jobs=1)
    heard = Listener()
    study.run(small(), tmp_path / "s.sqlite", jobs=1, log=heard)
    assert len(set(heard.keys)) == len(heard.keys) == 8
    assert [one[1].seed for one in heard.told[1:5]] == [0] * 4


def test_a_part_tells_its_trials_and_has_no_end(tmp_path):
    heard = [Listener(), Listener()]
    for number, listener in enumerate(heard, 1):
        study.run_shard(small(), f"{number}/2", tmp_path / f"{number}.sqlite", jobs=1, log=listener)
    assert all(one.kinds == ["begin", *["trial"] * 4] for one in heard)
    assert len({*heard[0].keys, *heard[1].keys}) == 8


def test_studies_run_together_are_told_one_after_the_other():
    heard = Listener()
    study.compare("wine", noise=["none", "symmetric:0.2"], jobs=1, log=heard, **SMALL)
    assert heard.kinds == ["begin", *["trial"] * 8, "end"] * 2


def test_the_table_has_the_test_that_was_asked_for():
    heard = Listener()
    study.compare("wine", test="signed_rank", jobs=1, log=heard, **SMALL)
    assert heard.told[-1][1].test == "signed_rank"


@pytest.mark.parametrize("fails", [("trial",), ("end",), ("trial", "end")])
def test_a_logger_that_fails_costs_a_warning_and_no_trial(tmp_path, fails):
    broken, sound = Broken(*fails), Listener()
    with pytest.warns(UserWarning, match="--log Broken failed") as warned:
        result = study.run(small(), tmp_path / "s.sqlite", jobs=1, log=[broken, sound])
    assert len(result.trials) == sound.kinds.count("trial") == 8
    said = [str(one.message) for one in warned]
    assert said[0] == f"--log Broken failed (OSError: no space for {fails[0]}); the study goes on, its store is complete"
    assert len(said) == (2 if "trial" in fails else 1)
    assert broken.calls == (logs.PATIENCE if "trial" in fails else 8)


def test_a_logger_that_cannot_begin_ends_the_study_before_it_computes(tmp_path):
    with pytest.raises(StudyError, match=r"^--log Broken cannot begin: OSError: no space for begin$"):
        study.run(small(), tmp_path / "s.sqlite", jobs=1, log=Broken("begin"))
    with study.Store(tmp_path / "s.sqlite") as store:
        assert list(store.rows()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tensorbord", "--log must be tensorboard, mlflow, wandb, .* did you mean 'tensorboard'"),
        ("tensorboard,,mlflow", "empty place between commas"),
        ("", "empty place between commas"),
        ("no_such_module:make", "log 'no_such_module:make': there is no module"),
        ("math:pi", "must be a function that returns a logger; got float"),
        ("builtins:dict", "must give an object with the methods begin, trial and end; got dict"),
        (3, "must give an object with the methods"),
    ],
)
def test_what_is_no_logger_is_one_line(given, said):
    with pytest.raises(StudyError, match=said) as caught:
        Log.of(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "pip"), [("tensorboard", '"lossmith[log]"'), ("mlflow", '"lossmith[log]"'), ("wandb", "wandb")])
def test_a_package_that_is_missing_is_one_line(monkeypatch, name, pip):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(StudyError, match=f"--log {name} needs {name}: pip install {pip}".replace("[", r"\[")):
        Log.of(name)


def test_a_function_of_the_users_makes_a_logger(tmp_path, monkeypatch):
    (tmp_path / "my_log.py").write_text(
        "import pathlib\n"
        "class Lines:\n"
        "    def begin(self, study): self.lines = [study.model]\n"
        "    def trial(self, spec, record): self.lines.append(spec.objective.label)\n"
        "    def end(self, summary): pathlib.Path('lines.txt').write_text('\\n'.join(self.lines))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    study.run(small(seeds=1), jobs=1, log="my_log:Lines")
    assert Path("lines.txt").read_text().split() == ["linear", *["cross_entropy"] * 2, *["generalized_cross_entropy:q=0.7"] * 2]


def _events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_numbers_of_the_store(tmp_path):
    runs = tmp_path / "the runs"
    result = study.run(small(), tmp_path / "s.sqlite", jobs=1, log=f"tensorboard:{runs}")
    (folder,) = runs.iterdir()
    assert folder.name.startswith("wine-linear-")
    trials = sorted(one for one in folder.iterdir() if one.name != "summary")
    assert len(trials) == 8
    record = result.trials["generalized_cross_entropy:q=0.7", 1, Configuration(0.1)]
    (ours,) = (one for one in trials if one.name.startswith("generalized_cross_entropy-q=0.7-seed-1-learning-rate-0.1-"))
    events = _events(ours)
    curve = [(one.step, one.value) for one in events.Scalars("test/accuracy")]
    assert curve == [(one["epoch"], pytest.approx(one["test"]["accuracy"])) for one in record["epochs"]]
    assert [one.step for one in events.Scalars("train_loss")] == [1, 2]
    assert events.Scalars("last/test/log_loss")[0].value == pytest.approx(record["last"]["test"]["log_loss"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    table = _events(folder / "summary")
    assert table.Scalars("mean/last/accuracy/cross_entropy")[0].value == pytest.approx(result.values()[0].mean())
    assert b"generalized_cross_entropy:q=0.7 is tied on every seed." in table.Tensors("summary/text_summary")[0].tensor_proto.string_val[0]
    # told again, each is there once; what a killed process left behind is taken away
    (trials[0]).rename(trials[0].with_name(trials[0].name + ".unfinished"))
    study.run(small(), tmp_path / "s.sqlite", jobs=1, log=f"tensorboard:{runs}")
    assert sorted(one for one in folder.iterdir() if one.name != "summary") == trials
    assert all(len(list(one.iterdir())) == 1 for one in folder.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["folder", "sqlite"])
def test_mlflow_has_the_numbers_of_the_store(tmp_path, monkeypatch, form):
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    from mlflow import MlflowClient

    place = {"folder": "my runs", "sqlite": f"sqlite:///{tmp_path}/runs.db"}[form]
    result = study.run(small(noise="symmetric:0.2"), tmp_path / "s.sqlite", jobs=1, log=f"mlflow:{place}")
    client = MlflowClient(f"sqlite:///{tmp_path}/my runs/mlflow.db" if form == "folder" else place)
    (experiment,) = (one for one in client.search_experiments() if one.name.startswith("wine, symmetric:0.2, linear, "))

    def runs():
        return client.search_runs([experiment.experiment_id])

    assert len(runs()) == 9
    (ours,) = (one for one in runs() if one.info.run_name == "generalized_cross_entropy:q=0.7, seed 1, learning rate 0.1")
    record = result.trials["generalized_cross_entropy:q=0.7", 1, Configuration(0.1)]
    history = client.get_metric_history(ours.info.run_id, "test/accuracy")
    assert [(one.step, one.value) for one in history] == [(one["epoch"], one["test"]["accuracy"]) for one in record["epochs"]]
    assert ours.data.metrics["best/validation/brier"] == record["best"]["val"]["brier"]
    assert (ours.data.params["objective.q"], ours.data.params["noise"], ours.data.params["seed"]) == ("0.7", "symmetric:0.2", "1")
    assert ours.info.status == "FINISHED"
    (table,) = (one for one in runs() if one.info.run_name == "summary")
    assert table.data.metrics["mean/last/accuracy/cross_entropy"] == pytest.approx(result.values()[0].mean(), abs=1e-12)
    assert "cross_entropy" in table.data.tags["mlflow.note.content"]
    artifacts = [one.path for one in client.list_artifacts(table.info.run_id)]
    assert artifacts == ["summary.csv"]
    # told again, each is there once; a run that a killed process left half-done is made anew
    client.update_run(ours.info.run_id, status="RUNNING")
    study.run(small(noise="symmetric:0.2"), tmp_path / "s.sqlite", jobs=1, log=f"mlflow:{place}")
    assert len(runs()) == 9
    assert {one.info.status for one in runs()} == {"FINISHED"}


class Wandb(types.ModuleType):
    """What Weights & Biases takes offline: runs with steps that only grow, a summary, an end."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = []

    def init(self, *, project, group, name, id, config, job_type, resume, reinit):
        assert all(not run.open for run in self.runs)
        assert resume == "allow"
        run = types.SimpleNamespace(project=project, group=group, name=name, id=id, config=config, steps={}, summary={}, open=True)

        def log(values, step=None):
            assert run.open
            assert step is None or step >= max(run.steps, default=0)
            run.steps.setdefault(step, {}).update(values)

        def finish(exit_code=0):
            run.open, run.exit_code = False, exit_code

        run.log, run.finish = log, finish
        self.runs.append(run)
        return run

    class Table:
        def __init__(self, *, dataframe):
            self.dataframe = dataframe


@pytest.fixture
def wandb(monkeypatch):
    fake = Wandb()
    fake.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delitem(sys.modules, "lossmith.study.loggers.wandb", raising=False)
    yield fake
    sys.modules.pop("lossmith.study.loggers.wandb", None)


def test_wandb_has_the_numbers_of_the_store(wandb):
    result = study.run(small(), jobs=1, log="wandb:my-project")
    *trials, table = wandb.runs
    assert len({run.id for run in wandb.runs}) == len(wandb.runs) == 9
    assert {run.project for run in wandb.runs} == {"my-project"}
    assert len({run.group for run in wandb.runs}) == 1
    assert not any(run.open or run.exit_code for run in wandb.runs)
    (ours,) = (run for run in trials if run.name == "generalized_cross_entropy:q=0.7, seed 1, learning rate 0.1")
    record = result.trials["generalized_cross_entropy:q=0.7", 1, Configuration(0.1)]
    assert {step: values["test/accuracy"] for step, values in ours.steps.items()} == {
        one["epoch"]: one["test"]["accuracy"] for one in record["epochs"]
    }
    assert ours.summary["last/test/accuracy"] == record["last"]["test"]["accuracy"]
    assert ours.config["objective.q"] == 0.7
    assert table.summary["mean/last/accuracy/cross_entropy"] == pytest.approx(result.values()[0].mean())
    assert set(table.steps[None]["summary"].dataframe["objective"]) == set(result.objectives)


def test_a_run_of_wandb_that_fails_is_ended(wandb, monkeypatch):
    monkeypatch.setattr(Wandb.Table, "__init__", lambda self, *, dataframe: 1 / 0)
    with pytest.warns(UserWarning, match="--log wandb failed .ZeroDivisionError"):
        study.run(small(seeds=1), jobs=1, log="wandb")
    assert (wandb.runs[-1].open, wandb.runs[-1].exit_code) == (False, 1)


def test_every_trial_of_a_study_has_a_name_of_its_own():
    from lossmith.study.loggers import facts

    spec = StudySpec(data="wine", objectives="ce,gce", model="linear", seeds=2, configurations=4)
    one, *_ = trials = spec.trials("f")
    assert one.weight_decay == 0.01
    assert facts.trial_name(one) == "cross_entropy, seed 0, learning rate 0.001"
    decayed = replace(one, weight_decay=0.3)
    assert facts.trial_name(decayed) == "cross_entropy, seed 0, learning rate 0.001, weight decay 0.3"
    assert len({facts.trial_name(trial) for trial in trials}) == len(trials)


def test_what_is_undefined_or_a_reference_is_told_as_far_as_it_goes():
    from lossmith.study.loggers import facts

    heard = Listener()
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "y": rng.integers(0, 2, 60)})
    study.compare(frame, target="y", jobs=1, log=heard, **SMALL | {"seeds": 1})
    (reference, *_) = (one for one in heard.told if one[0] == "trial" and one[1].objective.label.startswith("reference"))
    assert facts.trial_name(reference[1]) == "reference logistic_regression, seed 0"
    assert facts.numbers(reference[2])["plain/test/accuracy"] == reference[2]["plain"]["accuracy"]
    assert list(facts.curves(reference[2])) == []
    assert facts.numbers({"last": {"epoch": 0, "val": {}, "test": {"auroc": None, "f1": float("nan"), "brier": 0.5}}}) == {
        "last/test/brier": 0.5,
        "last/epoch": 0.0,
    }


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Weights & Biases itself, where it is installed; nothing leaves the machine."""
    found = pytest.importorskip("wandb", reason="wandb is not installed: only the fake is tried")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield found
    found.teardown()


def _records(path):
    """What a run wrote: records in blocks of 32 KiB, as LevelDB's log has them, behind seven bytes of a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", raw, at + 4)
        part += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(part)
            part = b""
            yield record


@pytest.mark.subprocess
@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_has_the_numbers_of_the_store(offline, tmp_path):
    result = study.run(small(), jobs=1, log="wandb:my-project")
    runs = {}
    for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        records = list(_records(path))
        (run,) = (one.run for one in records if one.WhichOneof("record_type") == "run")
        runs[run.display_name] = run, records
    assert len(runs) == 9
    assert {run.project for run, _ in runs.values()} == {"my-project"}
    assert len({run.run_group for run, _ in runs.values()}) == 1
    run, records = runs["generalized_cross_entropy:q=0.7, seed 1, learning rate 0.1"]
    assert {one.key: one.value_json for one in run.config.update}["objective.q"] == "0.7"
    steps, last = {}, {}
    for one in records:
        if one.WhichOneof("record_type") == "history":
            values = {item.key or item.nested_key[0]: item.value_json for item in one.history.item}
            steps[one.history.step.num] = json.loads(values["test/accuracy"])
        elif one.WhichOneof("record_type") == "summary":
            last |= {item.key: item.value_json for item in one.summary.update if item.key}
    record = result.trials["generalized_cross_entropy:q=0.7", 1, Configuration(0.1)]
    assert steps == {one["epoch"]: one["test"]["accuracy"] for one in record["epochs"]}
    assert json.loads(last["last/test/accuracy"]) == record["last"]["test"]["accuracy"]
    assert [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"] == [0]
