"""A comparison from the command line: what is said before and after, resuming, and everything that can be wrong with the input."""

import json
import re
import sqlite3

import pytest

from lossmith import study
from lossmith.cli import compare as module

SMALL = ("--data", "wine", "--model", "linear", "--seeds", 2, "--epochs", 2, "--learning-rates", "0.01,0.1", "--jobs", 1)
TWO = ("--objectives", "cross_entropy,gce:q=0.7")


def test_defaults_are_the_study_s_own():
    import inspect

    parameters = inspect.signature(module.compare).parameters
    for name, field in {"model": "model", "metric": "metric", "stop": "stop", "epochs": "epochs", "batch_size": "batch_size"}.items():
        assert parameters[name].default == getattr(study.StudySpec, field)
    assert parameters["validation_fraction"].default == study.StudySpec.validation
    assert parameters["test_fraction"].default == study.StudySpec.test
    assert int(parameters["seeds"].default) == len(study.StudySpec.seeds)
    assert tuple(map(float, parameters["learning_rate_range"].default.split(","))) == study.StudySpec.learning_rate_range
    (said,) = re.findall(r"the grid, (\S+) when left out", module.compare.__doc__)
    assert tuple(map(float, said.split(","))) == study.LEARNING_RATES
    (said,) = re.findall(r"the same for all; (\d+) when left out", module.compare.__doc__)
    assert int(said) == study.spec.CONFIGURATIONS


def test_a_study_says_what_it_will_do_then_what_it_found(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, *TWO)
    assert ran.status == 0, ran.err
    for text in ("8 = 2 objectives x 2 seeds x 2 learning rates", "An adjusted p-value can fall below 0.05", "new random splits"):
        assert text in ran.out
    for text in ("cross_entropy", "generalized_cross_entropy", "baseline", "(declared)", "(not tested)", "On wine, at the last epoch"):
        assert text in ran.out
    assert "8 of 8 trials" in ran.err
    page = (tmp_path / "lossmith-report" / "report.html").read_text()
    assert "On wine, at the last epoch" in page


def test_the_same_command_computes_nothing_twice(lossmith, tmp_path, monkeypatch):
    lossmith("compare", *SMALL, *TWO)
    page = (tmp_path / "lossmith-report" / "report.html").read_bytes()
    monkeypatch.setattr("lossmith.study.engine.run_trials", never)
    ran = lossmith("compare", *SMALL, *TWO)
    assert ran.status == 0, ran.err
    assert "8 of them stored already" in ran.err
    assert (tmp_path / "lossmith-report" / "report.html").read_bytes() == page


def never(*_):
    raise AssertionError("a stored trial was computed again")


@pytest.mark.untyped  # a store gives a study back as plain JSON, and the study makes objects of it
def test_report_rebuilds_the_page_from_the_store(lossmith, tmp_path, monkeypatch):
    lossmith("compare", *SMALL, *TWO)
    monkeypatch.setattr("lossmith.study.engine.run_trials", never)
    assert lossmith("report", "lossmith-report/trials.sqlite", "--out", "again").status == 0
    assert (tmp_path / "again" / "report.html").read_bytes() == (tmp_path / "lossmith-report" / "report.html").read_bytes()


def test_a_dry_run_writes_nothing(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, *TWO, "--dry-run")
    assert ran.status == 0
    assert "nothing was computed" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_the_plan_as_json(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, *TWO, "--dry-run", "--json", "--probes", "margins,gain")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert (found["dry_run"], found["test"], found["claim"]) == (True, "corrected_t", None)
    (one,) = found["studies"]
    assert found["trials"] == one["trials"] == 2 * 2 * len(one["study"]["learning_rates"])
    assert one["sizes"]["train"] > one["sizes"]["test"] > 0
    assert found["power"] == one["power"]
    assert found["power"]["sentence"] in " ".join(ran.err.split())
    assert "probes" in ran.err
    assert "margins, gain: looked at in every trained model" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_the_plan_says_when_no_p_value_can_be_small(lossmith):
    ran = lossmith("compare", *SMALL, *TWO, "--dry-run", "--test", "signed_rank")
    assert "An adjusted p-value cannot fall below 0.05" in ran.out


def test_json(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, *TWO, "--json")
    found = json.loads(ran.out)
    assert "2 objectives x 2 seeds" in ran.err
    assert found["declared"] == {"metric": "accuracy", "stop": "last", "baseline": "cross_entropy", "test": "corrected_t"}
    base, other = found["results"]["last"]["accuracy"]
    assert base["comparison"] is None
    assert other["comparison"]["p_adjusted"] is not None
    assert found["results"]["best"]["accuracy"][1]["comparison"]["p_adjusted"] is None
    assert other["mean"] == pytest.approx(sum(other["values"]) / 2)


def test_the_baseline_comes_first(lossmith):
    command = ("compare", *SMALL, "--objectives", "gce:q=0.7,cross_entropy", "--dry-run")
    assert "against generalized_cross_entropy:q=0.7" in lossmith(*command).out
    assert "against cross_entropy" in lossmith(*command, "--baseline", "ce").out
    assert "against generalized_cross_entropy:q=0.7" in lossmith(*command, "--baseline", "gce").out


def test_a_baseline_that_is_not_there_or_ambiguous(refused):
    assert "is not among the objectives" in refused("compare", *SMALL, *TWO, "--baseline", "comp_sum", status=2)
    line = refused("compare", *SMALL, "--objectives", "gce:q=0.3,gce:q=0.7", "--baseline", "gce", status=2)
    assert "could be several" in line


def test_ctrl_c_keeps_what_is_done_and_the_same_command_resumes(lossmith, monkeypatch):
    real, calls = study.engine.run_trials, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("lossmith.study.engine.run_trials", interrupted)
    ran = lossmith("compare", *SMALL, *TWO)
    assert ran.status == 130
    last = ran.err.strip().splitlines()[-1]
    assert last.endswith("stopped; 6 of 8 trials are kept in lossmith-report/trials.sqlite; the same command goes on from there")
    assert "Traceback" not in ran.err
    monkeypatch.setattr("lossmith.study.engine.run_trials", real)
    ran = lossmith("compare", *SMALL, *TWO)
    assert ran.status == 0
    assert "6 of them stored already" in ran.err


def test_unknown_objective(refused):
    assert "did you mean 'gce'?" in refused("compare", "--data", "wine", "--objectives", "ce,gcee")


def test_hyper_parameter_out_of_range(refused):
    assert "q must be in (0, 1]; got 7.0" in refused("compare", "--data", "wine", "--objectives", "ce,gce:q=7")


def test_unknown_data_metric_model_stop_and_test(refused):
    assert "did you mean 'wine'?" in refused("compare", *TWO, "--data", "wina")
    assert "metric must be one of" in refused("compare", *SMALL, *TWO, "--metric", "acc")
    assert "model must be" in refused("compare", *TWO, "--data", "wine", "--model", "mpl")
    assert "stop must be 'last' or 'best'" in refused("compare", *SMALL, *TWO, "--stop", "first")
    assert "--test must be one of" in refused("compare", *SMALL, *TWO, "--test", "t", status=2)


@pytest.mark.parametrize(("option", "value"), [("--seeds", "ten"), ("--learning-rates", "fast")])
def test_numbers_that_are_none(refused, option, value):
    assert value in refused("compare", *TWO, "--data", "wine", option, value, status=2)


def test_noise_and_imbalance(refused):
    assert "symmetric:RATE" in refused("compare", *SMALL, *TWO, "--noise", "loud")
    assert "imbalance must be" in refused("compare", *SMALL, *TWO, "--imbalance", "3")


FILES = {
    "empty": (b"", "is empty"),
    "binary": (b"\x00\x01\x02" * 100, "binary"),
    "no_target": (b"a,b\n1,x\n2,y\n", "no column 'label'"),
    "one_class": (b"a,label\n" + b"".join(b"%d.5,x\n" % i for i in range(20)), "same label"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_no_study_can_use(refused, tmp_path, kind):
    content, said = FILES[kind]
    (tmp_path / "data.csv").write_bytes(content)
    assert said in refused("compare", *TWO, "--data", "data.csv", "--target", "label")


def test_a_file_without_a_target_names_its_columns(refused, tmp_path):
    (tmp_path / "data.csv").write_text("age,label\n1,x\n")
    line = refused("compare", *TWO, "--data", "data.csv")
    assert "age, label" in line


def test_features_that_are_nan(refused, tmp_path):
    (tmp_path / "nan_data.py").write_text("import numpy\ndef load(): return numpy.full((20, 2), numpy.nan), numpy.arange(20) % 2\n")
    assert "NaN" in refused("compare", *TWO, "--data", "nan_data:load")


def test_a_corrupt_store(refused, tmp_path):
    (tmp_path / "bad.sqlite").write_bytes(b"this is no database" * 100)
    line = refused("compare", *SMALL, *TWO, "--store", "bad.sqlite")
    assert "bad.sqlite" in line
    assert (tmp_path / "bad.sqlite").read_bytes() == b"this is no database" * 100


def test_a_locked_store(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("lossmith.study.store.WAIT", 0.1)
    study.Store(tmp_path / "held.sqlite").close()
    holder = sqlite3.connect(tmp_path / "held.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        line = refused("compare", *SMALL, *TWO, "--store", "held.sqlite")
    finally:
        holder.close()
    assert "locked by another process" in line


def test_a_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to the folder file/sub" in refused("compare", *SMALL, *TWO, "--out", "file/sub")


def test_a_report_of_nothing(refused, tmp_path):
    assert "there is no store none.sqlite" in refused("report", "none.sqlite")
    study.Store(tmp_path / "new.sqlite").close()
    assert "no" in refused("report", "new.sqlite")
    assert "--study counts from 1" in refused("report", "new.sqlite", "--study", 0, status=2)


def test_objectives_and_models_of_the_user_s_own(lossmith, tmp_path):
    (tmp_path / "own_parts.py").write_text(
        "import torch\n"
        "def squared(logits, target): return (logits.softmax(1) - torch.eye(logits.shape[1])[target]).square().sum(1).mean()\n"
        "def net(in_features, n_classes): return torch.nn.Linear(in_features, n_classes)\n"
    )
    ran = lossmith(
        "compare", "--data", "wine", "--model", "own_parts:net", "--objectives", "ce,own_parts:squared", "--seeds", 2, "--epochs", 1,
        "--learning-rates", "0.1", "--jobs", 1,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert "own_parts:squared" in ran.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "2 objectives x 10 seeds x 12 configurations"),
        (("--configurations", 5), "100 = 2 objectives x 10 seeds x 5 configurations"),
        (("--tuner", "grid"), "2 objectives x 10 seeds x 6 learning rates"),
        (("--tune-once",), "3 tuning seeds x 12 configurations + 10 seeds x at most 2 chosen"),
        (("--learning-rate-range", "1e-4,1e-2"), "learning_rate 0.0001 to 0.01"),
        (("--stop-hopeless",), "an objective for which an advantage of 1.5 standard deviations"),
        (("--holdout", "thresholdout"), "test rows answer through Thresholdout"),
    ],
)
def test_the_plan_says_how_it_is_tuned_and_looked_at(lossmith, options, said):
    ran = lossmith("compare", "--data", "wine", "--model", "linear", *TWO, "--dry-run", *options)
    assert ran.status == 0, ran.err
    assert said in " ".join(ran.out.split())


def test_a_range_is_two_numbers(refused):
    assert "two numbers" in refused("compare", "--data", "wine", *TWO, "--learning-rate-range", "0.1", status=2)


def test_a_study_in_parts_and_one_report_of_them(lossmith, refused, tmp_path):
    for number in (1, 2, 3):
        ran = lossmith("compare", *SMALL, *TWO, "--shard", f"{number}/3")
        assert ran.status == 0, ran.err
        assert f"part {number}/3" in ran.out
        assert f"lossmith report lossmith-report/trials-{number}-of-3.sqlite" in ran.out
        assert not (tmp_path / "lossmith-report" / "report.html").exists()
    parts = [f"lossmith-report/trials-{number}-of-3.sqlite" for number in (1, 2, 3)]
    assert "of 8 trials are missing" in refused("report", *parts[:2])
    ran = lossmith("report", *parts, "--json")
    assert ran.status == 0, ran.err
    united = json.loads(ran.out)
    whole = json.loads(lossmith("compare", *SMALL, *TWO, "--json", "--out", "lossmith-report").out)
    assert united == whole


def test_bad_parts_and_back_ends(refused):
    assert "--shard must be I/N" in refused("compare", *SMALL, *TWO, "--shard", "4/3")
    assert "--backend must be one of local, dask://HOST:PORT" in refused("compare", *SMALL, *TWO, "--backend", "cloud")
    assert "--shard deals trials that are known beforehand" in refused("compare", *SMALL, *TWO, "--shard", "1/2", "--stop-hopeless")
    assert "--optuna-storage is for --tuner optuna" in refused("compare", *SMALL, *TWO, "--optuna-storage", "sqlite://", status=2)
    assert "names no port" in refused("compare", *SMALL, *TWO, "--backend", "dask://head")
    assert "jobs counts processes of this machine" in refused("compare", *SMALL, *TWO, "--backend", "dask://head:8786")


def test_trials_are_told_to_a_tracker_too(lossmith, tmp_path):
    ran = lossmith("compare", *SMALL, *TWO, "--log", "tensorboard:my runs")
    assert ran.status == 0
    (folder,) = (tmp_path / "my runs").iterdir()
    assert len(list(folder.iterdir())) == 9


def test_a_log_that_there_is_not_is_refused_before_anything_is_computed(lossmith, refused, tmp_path):
    assert "--log must be tensorboard, mlflow, wandb" in refused("compare", *SMALL, *TWO, "--log", "tensorbord")
    (tmp_path / "file").write_text("")
    ran = lossmith("compare", *SMALL, *TWO, "--log", "tensorboard:file")
    assert ran.status == 1
    assert ran.err.splitlines()[-1].startswith("lossmith compare: --log tensorboard cannot begin: ")
    assert "of 8 trials" not in ran.err
