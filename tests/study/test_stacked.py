"""Trials trained in step give the numbers of the plain loop, to the bit, whichever others are trained beside them."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from lossmith import card as cards
from lossmith._rows import of_log_prob
from lossmith.card import Claims, objective
from lossmith.study import Dataset, ObjectiveSpec, StudySpec, TrialSpec, load_data, run_trial, run_trials
from lossmith.study.errors import StudyError
from lossmith.study.training import run as run_module
from lossmith.study.training import stacked
from lossmith.study.training import trial as trial_module
from lossmith.study.training.chain import same_bits
from lossmith.study.training.criterion import Criterion, Together
from lossmith.study.training.run import batches
from lossmith.study.training.stacked import batch_sizes, same_rows
from lossmith.study.training.trial import split_of, worth_stacking

MINE = "objectives_of_a_user"


@pytest.fixture(scope="module")
def wine() -> Dataset:
    return load_data("wine")


def trials(dataset: Dataset, objectives: str = "cross_entropy", **changes: Any) -> list[TrialSpec]:
    options = {"model": "linear", "seeds": 2, "epochs": 3, "learning_rates": [0.001, 0.1], "batch_size": 50}
    return StudySpec(data=dataset, objectives=objectives, **options | changes).trials(dataset.fingerprint)


def numbers(outcomes: list[Any]) -> list[str]:
    """The records as text, without the time they took: NaN would not equal itself."""
    return [json.dumps({key: value for key, value in outcome.items() if key != "seconds"}) for outcome in outcomes]


def compared(asked: list[TrialSpec], dataset: Dataset) -> list[Any]:
    """The outcomes, after making sure that they are those of the plain loop."""
    outcomes = run_trials(asked, dataset)
    assert numbers(outcomes) == numbers(run_trials(asked, dataset, together=False))
    return outcomes


ROWS = ",".join(name for name, card in cards.all_cards().items() if card.form in ("log_prob", "log_probs", "logits"))


@pytest.mark.parametrize("changes", [{"model": "mlp"}, {"batch_size": 20, "imbalance": 0.3, "metric": "log_loss"}])
def test_every_objective_gives_the_numbers_of_the_plain_loop(wine: Dataset, changes: dict[str, Any]) -> None:
    objectives = f"{ROWS},AdaptiveLDR,focal_loss:gamma=1.3,focal_loss:gamma=5.0,gce:q=0.3,gce:q=0.8,cross_entropy:reduction=sum"
    compared(trials(wine, objectives, noise="symmetric:0.2", seeds=1, epochs=1, **changes), wine)


def test_images_of_several_seeds_give_the_numbers_of_the_plain_loop() -> None:
    digits = load_data("digits")
    compared(trials(digits, "cross_entropy,ldr_kl_loss", model="mlp", epochs=1, batch_size=128, noise="symmetric:0.4"), digits)


def test_a_user_s_objectives_give_the_numbers_of_the_plain_loop(user: ModuleType, wine: Dataset) -> None:
    compared(trials(wine, f"{MINE}:plain,{MINE}:scaled:factor=2,{MINE}:wrong_way,cross_entropy,{MINE}:noisy"), wine)


@pytest.mark.parametrize("model", [f"{MINE}:with_dropout"])
def test_other_models_are_trained_in_the_plain_loop(user: ModuleType, wine: Dataset, model: str) -> None:
    asked = trials(wine, f"cross_entropy,{MINE}:noisy", model=model)
    assert worth_stacking(asked[0], wine) == 1
    together = run_trials(asked, wine)
    assert numbers(together) == numbers([run_trial(trial, wine) for trial in asked])


def test_no_trial_depends_on_its_neighbours(user: ModuleType, wine: Dataset) -> None:
    asked = trials(
        wine,
        f"cross_entropy,AdaptiveLDR,AdaptiveLDR:alpha=3,{MINE}:noisy,logit_adjusted,focal_loss:gamma=5.0",
        imbalance=0.5,
        noise="symmetric:0.3",
        epochs=2,
    )
    alone = numbers([run_trial(trial, wine) for trial in asked])
    assert numbers(run_trials(asked, wine)) == alone
    assert numbers(run_trials(asked[::-1], wine)) == alone[::-1]
    assert numbers(run_trials(asked[3:8], wine)) == alone[3:8]


def test_trials_of_different_shapes_may_be_asked_for_at_once(wine: Dataset) -> None:
    asked = [*trials(wine), *trials(wine, imbalance=0.3), *trials(wine, epochs=2, batch_size=20), *trials(wine, model="mlp")]
    assert numbers(run_trials(asked, wine)) == numbers([run_trial(trial, wine) for trial in asked])


def test_rows_looked_at_in_pieces_give_the_numbers_of_the_plain_loop(wine: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run_module, stacked):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    compared(trials(wine, model="mlp", seeds=1), wine)


def test_probes_are_asked_of_the_weights_of_their_epoch(wine: Dataset) -> None:
    compared(trials(wine, model="mlp", seeds=1, probes="margins", learning_rates=[0.01, 0.1]), wine)


@pytest.mark.parametrize("reason", ["bits", "bytes"])
def test_models_of_a_seed_that_cannot_be_one_chain_are_chains_of_their_own(
    reason: str, wine: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = stacked.Chain
    monkeypatch.setattr(stacked, "Chain", lambda models, *rest: sizes.append(len(models)) or real(models, *rest))
    asked = trials(wine, model="mlp")
    compared(asked, wine)
    assert sizes == [2, 2]
    if reason == "bits":
        monkeypatch.setattr(stacked, "same_bits", lambda layers, n, k: k == 1 and same_bits(layers, n, k))
    else:
        monkeypatch.setattr(stacked, "CHAIN_BYTES", 1)
    sizes.clear()
    compared(asked, wine)
    assert sizes == [1] * 4


def test_a_diverged_trial_ends_and_leaves_the_others_alone(user: ModuleType, wine: Dataset) -> None:
    asked = trials(wine, f"cross_entropy,{MINE}:exploding", learning_rates=[0.01, 1e38], model="mlp", seeds=1, epochs=4)
    outcomes = compared(asked, wine)
    assert [outcome["status"] for outcome in outcomes] == ["ok", "diverged", "diverged", "diverged"]
    assert len(outcomes[0]["epochs"]) == 5
    assert len(outcomes[2]["epochs"]) == 1


def test_a_chain_that_must_not_be_shorter_takes_along_who_has_left(wine: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = trials(wine, learning_rates=[0.01, 0.03, 1e38], model="mlp", seeds=1, epochs=4)
    lengths: list[int] = []
    real = stacked.Chain.step
    monkeypatch.setattr(stacked.Chain, "step", lambda self, *rest: lengths.append(len(self)) or real(self, *rest))
    for allowed, seen in (((1, 2, 3), {3, 2}), ((1, 3), {3})):
        monkeypatch.setattr(stacked, "same_bits", lambda layers, n, k, allowed=allowed: k in allowed and same_bits(layers, n, k))
        lengths.clear()
        outcomes = compared(asked, wine)
        assert [outcome["status"] for outcome in outcomes] == ["ok", "ok", "diverged"]
        assert set(lengths) == seen


def test_a_failed_trial_is_returned_as_its_exception_and_leaves_the_others_alone(user: ModuleType, wine: Dataset) -> None:
    asked = trials(wine, f"{MINE}:late,cross_entropy,gce:q=1.5,AdaptiveLDR", seeds=1)
    outcomes = run_trials(asked, wine)
    for outcome, message in zip(outcomes[:2], ("late\ntrouble", "late\ntrouble"), strict=True):
        assert isinstance(outcome, RuntimeError)
        assert str(outcome) == message
    for outcome in outcomes[4:6]:
        assert isinstance(outcome, ValueError)
    assert numbers([*outcomes[2:4], *outcomes[6:]]) == numbers([run_trial(trial, wine) for trial in (*asked[2:4], *asked[6:])])


def test_when_all_fail_all_are_returned(wine: Dataset) -> None:
    assert [type(outcome) for outcome in run_trials(trials(wine, "gce:q=1.5", seeds=1), wine)] == [StudyError, StudyError]


def test_the_global_generator_and_threads_are_left_alone(user: ModuleType, wine: Dataset) -> None:
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run_trials(trials(wine, f"cross_entropy,{MINE}:noisy"), wine)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.fixture
def unfit() -> Iterator[str]:
    """An objective registered as one of rows whose value of a row depends on the rows beside it."""
    with cards.aside():

        def _centred(log_p: torch.Tensor) -> torch.Tensor:
            return -log_p + (log_p - log_p.mean()).square()

        @objective(
            row=_centred, form="log_prob", source="nobody", summary="not a loss of rows", use_when="never", formula="x", claims=Claims()
        )
        def centred_loss(input: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
            return of_log_prob(_centred, input, target, options)

        yield "centred_loss"


def test_an_objective_that_mixes_rows_is_called_trial_by_trial(unfit: str, wine: Dataset) -> None:
    assert not same_rows(ObjectiveSpec(unfit), 3, 15, 64)
    compared(trials(wine, unfit), wine)


def test_objectives_of_rows_are_evaluated_together_here() -> None:
    """If this fails, the numbers are still right, and trials take longer."""
    for name in ("cross_entropy", "generalized_cross_entropy", "ldr_kl_loss", "logit_adjusted", "brier_loss"):
        assert same_rows(ObjectiveSpec(name), 10, 15, 64)
        assert same_rows(ObjectiveSpec(name), 10, 120, 4)
    for label in (
        "cross_entropy:label_smoothing=0.1",
        "gce:q=0.7",
        "ldr_kl_loss:margin=0.1,temperature=1.0",
        "focal_loss:gamma=2.0",
        "gjs:label_weight=0.3",
        "AdaptiveLDR:alpha=2.0,margin=1.0",
    ):
        assert same_rows(ObjectiveSpec.parse(label), 10, 15, 64)
        assert same_rows(ObjectiveSpec.parse(label), 10, 120, 4)


def test_hyper_parameters_mean_what_they_mean_outside_a_study(wine: Dataset) -> None:
    """They are handed over as tensors, in single precision."""
    z, y = 3 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    for label in (
        "cross_entropy:label_smoothing=0.1",
        "gce:q=0.3",
        "ldr_kl:temperature=0.7,margin=0.3",
        "sce:alpha=0.2,beta=0.5,log_zero=-5",
    ):
        spec = ObjectiveSpec.parse(label)
        criterion = Criterion(spec, torch.ones(3), 40)
        assert criterion.numbers
        assert set(criterion.numbers) | set(criterion.fixed) == {name for name, _ in spec.hyper}
        wanted = cards.get(spec.name).function(z.double(), y, **dict(spec.hyper))
        torch.testing.assert_close(criterion(z, y, y).double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("objectives", "seeds"),
    [("cross_entropy", 20), ("gce:q=0.2,gce:q=0.5,gce:q=0.7,gce:q=1.0", 5), ("AdaptiveLDR:margin=1,AdaptiveLDR:margin=2", 10)],
)
def test_one_call_for_many_trials(objectives: str, seeds: int, wine: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty trials of an objective, be it with hyper-parameters of their own, cost as many calls of it as one."""
    calls = []
    real = Together.__call__
    monkeypatch.setattr(Together, "__call__", lambda self, z, *rest: calls.append(tuple(z.shape)) or real(self, z, *rest))
    same_rows.cache_clear()
    asked = trials(wine, objectives, seeds=seeds, learning_rates=[0.001])
    run_trials(asked, wine)
    training = [shape for shape in calls if shape[0] == len(asked)]
    assert len(training) == 3 * len(list(batches(split_of(asked[0], wine), 50, torch.Generator())))


def test_batches_cover_the_rows_once_in_the_sizes_announced(wine: Dataset) -> None:
    split = split_of(trials(wine)[0], wine)
    n = len(split.y_train)
    for size in (1, 7, 50, n - 1, n, 10 * n):
        seen = list(batches(split, size, torch.Generator().manual_seed(0)))
        assert sorted(torch.cat([index for *_, index in seen]).tolist()) == list(range(n))
        assert {len(y) for _, y, _ in seen} == batch_sizes(n, size)
        assert all(torch.equal(x, split.x_train[index]) and torch.equal(y, split.y_train[index]) for x, y, index in seen)


def test_how_many_are_worth_stacking(wine: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    (asked, *_) = trials(wine)
    assert worth_stacking(asked, wine) == trial_module.LARGEST_STACK
    monkeypatch.setattr(trial_module, "STACK_WORK", 1)
    assert worth_stacking(asked, wine) == trial_module.SMALLEST_STACK
    monkeypatch.setattr(trial_module, "STACK_BYTES", 1)
    assert worth_stacking(asked, wine) == 1
