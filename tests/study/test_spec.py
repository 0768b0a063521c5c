"""Objectives read and print back; keys change with what changes a trial's numbers and with nothing else; bad requests are one line."""

from dataclasses import fields, replace

import pytest

from lossmith.study import ObjectiveSpec, StudyError, StudySpec, TrialSpec


def spec(**changes: object) -> StudySpec:
    return StudySpec(**{"data": "wine", "objectives": ("cross_entropy",), **changes})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cross_entropy", "cross_entropy"),
        ("gce", "generalized_cross_entropy"),
        ("gce:q=0.5", "generalized_cross_entropy:q=0.5"),
        (" gce : q = 1 ", "generalized_cross_entropy:q=1.0"),
        ("cross_entropy:reduction=sum", "cross_entropy:reduction=sum"),
        ("f_divergence_loss:generator=skew_kl(skew=0.1)", "f_divergence_loss:generator=skew_kl(skew=0.1)"),
        ("torch.nn.functional:cross_entropy", "torch.nn.functional:cross_entropy"),
        ("torch.nn.functional:cross_entropy:label_smoothing=0.1", "torch.nn.functional:cross_entropy:label_smoothing=0.1"),
    ],
)
def test_an_objective_reads_and_prints_back(text: str, label: str) -> None:
    objective = ObjectiveSpec.parse(text)
    assert objective.label == label
    assert ObjectiveSpec.parse(objective.label) == objective


def test_a_list_of_objectives_keeps_hyper_parameters_with_their_objective() -> None:
    listed = ObjectiveSpec.parse_list("cross_entropy:reduction=sum,label_smoothing=0.1, gce:q=0.5,")
    assert [o.label for o in listed] == ["cross_entropy:label_smoothing=0.1,reduction=sum", "generalized_cross_entropy:q=0.5"]
    by_name = ObjectiveSpec.parse_list("fenchel_young_loss:entropy=tsallis(alpha=1.5),f_divergence_loss:generator=kl,poly_loss")
    assert [o.label for o in by_name] == ["fenchel_young_loss:entropy=tsallis(alpha=1.5)", "f_divergence_loss:generator=kl", "poly_loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generalised_cross_entropy", "did you mean 'generalized_cross_entropy'"),
        ("gce:p=0.5", "no hyper-parameter 'p'"),
        ("gce:q", "name=value; got 'q'"),
        ("gce:q=", "name=value"),
        ("gce:q=0.5,q=0.6", "given twice"),
        ("", "no objective"),
        ("no.such.module:loss", "no module 'no'"),
        ("torch.nn.functional:cros_entropy", "did you mean 'cross_entropy'"),
    ],
)
def test_a_bad_objective_is_one_line(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        ObjectiveSpec.parse(text)
    assert "\n" not in str(caught.value)


def test_texts_and_counts_are_read() -> None:
    study = spec(objectives="cross_entropy, gce:q=0.7", noise="symmetric:0.4", seeds=3, learning_rates=0.1)
    assert [objective.label for objective in study.objectives] == ["cross_entropy", "generalized_cross_entropy:q=0.7"]
    assert study.noise is not None
    assert study.noise.rate == 0.4
    assert study.seeds == (0, 1, 2)
    assert study.learning_rates == (0.1,)


def test_a_study_is_written_down_and_read_back() -> None:
    study = spec(objectives="cross_entropy,gce:q=0.7", noise="asymmetric:0.3", seeds=[3, 1], stop="best", imbalance=0.1)
    assert StudySpec.from_dict(study.as_dict()) == study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ()}, "objectives must be"),
        ({"objectives": "gce,generalized_cross_entropy"}, "named twice"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seed 1 is named twice"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"stop": "first"}, "stop must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 1.5}, "batch_size must be"),
        ({"learning_rates": []}, "learning_rates must be"),
        ({"learning_rates": [0.0]}, "learning_rates must be"),
        ({"learning_rates": [0.1, 0.1]}, "named twice"),
        ({"imbalance": 0.0}, "imbalance must be"),
        ({"validation": 0.0}, "validation must be"),
        ({"validation": 0.5, "test": 0.5}, "nothing to train on"),
        ({"noise": "much"}, "noise must be"),
        ({"data": "package.module:function", "target": "y"}, "target is for files"),
    ],
)
def test_a_bad_study_is_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        spec(**changes)
    assert "\n" not in str(caught.value)


def test_every_objective_of_every_seed_gets_the_same_budget() -> None:
    study = spec(objectives="cross_entropy,gce", seeds=2, learning_rates=[0.1, 0.01])
    trials = study.trials("f")
    assert [(t.seed, t.objective.name, t.learning_rate) for t in trials] == [
        (seed, name, rate) for seed in (0, 1) for name in ("cross_entropy", "generalized_cross_entropy") for rate in (0.1, 0.01)
    ]
    assert len({trial.key for trial in trials}) == len(trials)


def test_a_key_ignores_what_does_not_change_the_trial() -> None:
    (key,) = (trial.key for trial in spec(seeds=1, learning_rates=0.1).trials("f"))
    wider = spec(objectives="gce,cross_entropy", seeds=3, learning_rates=[0.1, 0.3], stop="best").trials("f")
    assert sum(trial.key == key for trial in wider) == 1


def test_a_key_changes_with_every_field() -> None:
    trial = spec(seeds=1).trials("f")[0]
    other = {
        "data": "g", "model": "linear", "model_source": "x", "objective": ObjectiveSpec("brier_loss"), "objective_source": "x",
        "noise": spec(noise="symmetric:0.1").noise, "imbalance": 0.5, "validation": 0.3, "test": 0.3, "epochs": 1, "batch_size": 2,
        "metric": "f1", "seed": 7, "learning_rate": 0.7, "folds": 5, "fold": 1, "clean_validation": True,
        "weight_decay": 0.1, "labels": 3, "probes": ("margins",),
    }  # fmt: skip
    assert set(other) == {field.name for field in fields(TrialSpec)}
    keys = {trial.key} | {replace(trial, **{name: value}).key for name, value in other.items()}
    assert len(keys) == 1 + len(other)


def test_keys_outlive_new_options() -> None:
    """Trials stored by earlier versions are found again."""
    (trial,) = spec(objectives="gce:q=0.7", noise="symmetric:0.4", seeds=1, learning_rates=0.1).trials("f" * 64)
    assert replace(trial, objective_source="o", model_source="m").key == "2c15369aaa6da1a14c2c8f71350e58d9002c567723523faaebce46447ae75f31"


def test_the_selection_rule_is_a_sentence() -> None:
    assert "lowest log_loss" in spec(metric="log_loss").selection_rule
    noisy = spec(noise="symmetric:0.4").selection_rule
    assert "highest accuracy" in noisy
    assert "same noise" in noisy
