"""A trial is a pure function: same numbers every time, same start and batches for every objective, and an honest record."""

import copy
import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lossmith.study import Dataset, StudyError, StudySpec, TrialSpec, load_data, run_trial
from lossmith.study.training.metrics import METRICS
from lossmith.study.training.objectives import SERVED
from lossmith.study.training.trial import rehearse, split_of

MINE = "objectives_of_a_user"


@pytest.fixture(scope="module")
def wine() -> Dataset:
    return load_data("wine")


def trials(dataset: Dataset, objectives: str = "cross_entropy", **changes: Any) -> list[TrialSpec]:
    options = {"model": "linear", "seeds": 1, "epochs": 3, "learning_rates": 0.01} | changes
    return StudySpec(data=dataset, objectives=objectives, **options).trials(dataset.fingerprint)


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in copy.deepcopy(record).items() if key != "seconds"}


@pytest.mark.parametrize("model", ["linear", "mlp", f"{MINE}:with_dropout"])
def test_the_same_trial_gives_the_same_numbers(user: ModuleType, wine: Dataset, model: str) -> None:
    (trial,) = trials(wine, model=model, noise="symmetric:0.2")
    first = run_trial(trial, wine)
    torch.rand(5)
    np.random.default_rng().random()
    again = run_trial(trial, wine)
    assert without_time(first) == without_time(again)
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_the_global_generator_and_threads_are_left_alone(wine: Dataset) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run_trial(trials(wine)[0], wine)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_objectives_and_learning_rates_share_start_and_batches(user: ModuleType, wine: Dataset) -> None:
    seen = []
    for trial in trials(wine, f"{MINE}:still,{MINE}:still_too", learning_rates=[1e-30, 1e-25], noise="symmetric:0.4", batch_size=32):
        user.SEEN.clear()
        run_trial(trial, wine)
        seen.append(torch.cat([calls for _, calls in user.SEEN]))
    assert len(seen[0]) == 3 * len(split_of(trials(wine)[0], wine).y_train)
    for other in seen[1:]:
        assert torch.equal(seen[0], other)  # logits of the untrained weights, and targets, batch by batch
    epochs = seen[0].split(len(seen[0]) // 3)
    assert not torch.equal(epochs[0], epochs[1])  # a new order every epoch
    assert torch.equal(epochs[0][:, :3].sum(0).round(decimals=2), epochs[1][:, :3].sum(0).round(decimals=2))  # of the same rows


def test_another_seed_is_another_start(user: ModuleType, wine: Dataset) -> None:
    first, other = (run_trial(trial, wine) for trial in trials(wine, f"{MINE}:still", seeds=2))
    assert first["epochs"][0] != other["epochs"][0]


def test_the_record_holds_every_epoch_and_all_metrics_at_two_of_them(wine: Dataset) -> None:
    record = run_trial(trials(wine, epochs=5, metric="balanced_accuracy")[0], wine)
    assert record["status"] == "ok"
    assert [entry["epoch"] for entry in record["epochs"]] == [0, 1, 2, 3, 4, 5]
    assert record["epochs"][0]["train_loss"] is None
    losses = [entry["train_loss"] for entry in record["epochs"][1:]]
    assert losses == sorted(losses, reverse=True)
    assert record["last"]["epoch"] == 5
    for seen in (record["last"], record["best"]):
        assert set(seen["val"]) == set(seen["test"]) == set(METRICS)
        entry = record["epochs"][seen["epoch"]]
        assert entry["val"] == {"balanced_accuracy": seen["val"]["balanced_accuracy"]}
        assert entry["test"] == {"balanced_accuracy": seen["test"]["balanced_accuracy"]}
        assert sum(row["count"] for row in seen["reliability"]) == len(split_of(trials(wine)[0], wine).y_test)


@pytest.mark.parametrize(("metric", "best"), [("accuracy", max), ("log_loss", min)])
def test_best_is_the_earliest_epoch_with_the_best_validation_metric(wine: Dataset, metric: str, best: Any) -> None:
    record = run_trial(trials(wine, epochs=30, metric=metric, learning_rates=0.3, noise="symmetric:0.3")[0], wine)
    values = [entry["val"][metric] for entry in record["epochs"][1:]]
    assert record["best"]["epoch"] == 1 + values.index(best(values))


def test_probabilities_are_raw_only_where_the_card_promises_them(user: ModuleType, wine: Dataset) -> None:
    (promised,) = trials(wine, "cross_entropy", epochs=20, noise="symmetric:0.4")
    (unknown,) = trials(wine, f"{MINE}:plain", epochs=20, noise="symmetric:0.4")
    raw, tempered = run_trial(promised, wine), run_trial(unknown, wine)
    assert raw["last"]["calibration"] == "raw"
    assert raw["last"]["temperature"] == 1.0
    assert tempered["last"]["calibration"] == "temperature"
    assert tempered["last"]["temperature"] != 1.0
    assert tempered["last"]["val"]["log_loss"] < raw["last"]["val"]["log_loss"]
    assert tempered["last"]["test"]["accuracy"] == raw["last"]["test"]["accuracy"]


def test_a_diverged_run_ends_there_and_keeps_its_last_finite_epoch(user: ModuleType, wine: Dataset) -> None:
    record = run_trial(trials(wine, f"{MINE}:exploding")[0], wine)
    assert record["status"] == "diverged"
    assert [entry["epoch"] for entry in record["epochs"]] == [0]
    assert record["last"]["epoch"] == record["best"]["epoch"] == 0
    assert 0 <= record["last"]["test"]["accuracy"] <= 1
    json.dumps(record, allow_nan=False)


def test_a_huge_learning_rate_is_no_crash(wine: Dataset) -> None:
    for trial in trials(wine, "cross_entropy,gce", learning_rates=[1e30], model="mlp"):
        assert run_trial(trial, wine)["status"] in ("ok", "diverged")


def test_objectives_get_what_they_need(wine: Dataset) -> None:
    from lossmith import card

    served = [name for name, record in card.all_cards().items() if record.needs and set(record.needs) <= set(SERVED)]
    assert served
    for trial in trials(wine, ",".join(served)):
        assert run_trial(trial, wine)["status"] == "ok"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": f"{MINE}:picky:power=2"},
            r"objective .*:picky:power=2.0: picky: power must be in \(0, 1\]; got 2",
        ),
        ({"objectives": "gce:q=1.5"}, r"q must be in \(0, 1\]; got 1.5"),
        ({"objectives": f"{MINE}:per_row"}, "must return one number"),
        ({"objectives": "cross_entropy:reduction=none"}, "must return one number"),
        (
            {"objectives": "cross_entropy", "model": f"{MINE}:too_wide"},
            r"must return logits of shape .* = \(128, 3\); got shape",
        ),
        ({"objectives": "cross_entropy", "model": f"{MINE}:broken"}, r"on features of shape \(128, 13\): RuntimeError"),
        ({"objectives": "cross_entropy", "model": "cnn"}, "cnn is for images"),
    ],
)
def test_what_cannot_run_is_found_before_it_runs(user: ModuleType, wine: Dataset, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        rehearse(trials(wine, **changes)[0], wine)
    assert "\n" not in str(caught.value)


def test_a_model_with_nothing_to_train_is_one_line(user: ModuleType, wine: Dataset) -> None:
    with pytest.raises(StudyError, match="must return one number"):
        rehearse(trials(wine, model=f"{MINE}:frozen")[0], wine)


def test_a_trial_is_never_stored_under_the_hash_of_other_code(user: ModuleType, wine: Dataset) -> None:
    (trial,) = trials(wine, f"{MINE}:plain", model=f"{MINE}:with_dropout")
    for stale, what in ((replace(trial, objective_source="old"), "objective"), (replace(trial, model_source="old"), "model")):
        with pytest.raises(StudyError, match=f"the file that defines {what} {MINE}:.* was edited"):
            run_trial(stale, wine)
