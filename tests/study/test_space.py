"""Where objectives are searched: within what their cards allow, about the published defaults, evenly however few the points are."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lossmith import card as cards
from lossmith.card import Between, Card, Choice, Claims, Range
from lossmith.study import ObjectiveSpec, StudyError, StudySpec
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.quasi_random import quasi_random
from lossmith.study.tuning.space import EDGE, Interval, Options, Space, _dimension, space_of


def comparable() -> list[str]:
    """The objectives that a study can train with."""
    found = []
    for name in cards.all_cards():
        try:
            found.append(ObjectiveSpec.parse(name).name)
        except StudyError:
            continue
    return found


def made_up(allowed: Range | Choice, default: float | str | None, **facts: object) -> Card:
    def loss(input: object, target: object, *, h: object = default) -> None: ...

    return Card("loss", loss, loss, "logits", "s", "s", "u", "f", Claims(), {"h": allowed}, hyper={"h": default}, **facts)


@pytest.mark.parametrize("name", comparable())
def test_every_point_of_a_space_is_what_the_card_allows(name: str) -> None:
    objective, card = ObjectiveSpec.parse(name), cards.get(name)
    space = space_of(objective)
    rng = np.random.default_rng(0)
    corners = [[0.0] * len(space.dimensions), [1.0] * len(space.dimensions)]
    for point in [*corners, *rng.random((50, len(space.dimensions))).tolist()]:
        hyper = dict(space.at(point).hyper)
        card.check(hyper)
        assert set(hyper) == {dimension.name for dimension in space.dimensions[2:]}
        assert ObjectiveSpec.parse(space.at(point).applied(objective).label).label == space.at(point).applied(objective).label


@pytest.mark.parametrize("name", comparable())
def test_the_default_lies_in_the_space(name: str) -> None:
    for dimension in space_of(ObjectiveSpec.parse(name)).dimensions:
        if isinstance(dimension, Options):
            assert dimension.usual in dimension.options
        else:
            assert dimension.usual is not None
            assert dimension.low <= dimension.usual <= dimension.high


@pytest.mark.parametrize(
    ("allowed", "default", "facts", "low", "high", "origin"),
    [
        (Range(0, 1), 0.5, {}, 0.0, 1.0, None),
        (Range(0, 1, open_low=True, open_high=True), 0.5, {}, 0.05, 0.95, None),
        (Range(0), 2.0, {}, 0.5, 8.0, 0.0),
        (Range(0), 2.0, {"settings": [{"h": 0.25}, {"h": 20.0}]}, 0.25, 20.0, 0.0),
        (Range(1), 2.0, {}, 1.25, 5.0, 1.0),
        (Range(-math.inf, 0), -4.0, {}, -16.0, -1.0, 0.0),
        (Range(0), 0.0, {"settings": [{"h": 0.1}]}, 0.0, 0.2, None),
        (Range(0), 0.0, {}, 0.0, 1.0, None),
        (Range(0, 1), 1.0, {"settings": [{"h": 0.8}]}, 0.6, 1.0, None),
        (Range(1, whole=True), 2, {"settings": [{"h": 6}]}, 1, 6, None),
        (Range(-math.inf), 3.0, {}, 0.0, 6.0, None),
        (Range(0), 2.0, {"search": {"h": Between(1.0, 3.0)}}, 1.0, 3.0, None),
        (Range(0), 2.0, {"search": {"h": Between(1.0, 3.0, log=True)}}, 1.0, 3.0, 0.0),
    ],
)
def test_intervals(allowed: Range, default: float, facts: dict[str, object], low: float, high: float, origin: float | None) -> None:
    found = _dimension(made_up(allowed, default, **facts), "h")
    assert isinstance(found, Interval)
    assert (found.low, found.high, found.origin) == (pytest.approx(low), pytest.approx(high), origin)


def test_what_has_no_default_to_start_from_is_not_searched() -> None:
    assert _dimension(made_up(Range(0), None), "h") is None
    assert [d.name for d in space_of(ObjectiveSpec.parse("logit_adjusted")).dimensions] == ["learning_rate", "weight_decay", "tau"]


def test_what_the_user_fixed_is_not_searched() -> None:
    assert len(space_of(ObjectiveSpec.parse("gce:q=0.7")).dimensions) == 2
    assert len(space_of(ObjectiveSpec.parse("gce")).dimensions) == 3
    assert len(space_of(ObjectiveSpec.parse("torch.nn.functional:cross_entropy")).dimensions) == 2


def test_a_logarithmic_scale_has_the_geometric_mean_in_its_middle() -> None:
    assert Interval("h", 1e-4, 1e-2, origin=0.0).at(0.5) == pytest.approx(1e-3)
    assert Interval("h", 1.25, 5.0, origin=1.0).at(0.5) == pytest.approx(1 + math.sqrt(0.25 * 4))
    below = Interval("h", -16.0, -1.0, origin=0.0)
    assert [below.at(share) for share in (0, 0.5, 1)] == [-1.0, -4.0, -16.0]


def test_edges_are_where_more_lies_beyond() -> None:
    plain = Interval("h", 0.0, 1.0)
    assert [plain.at_edge(value) for value in (0.0, EDGE / 2, 0.5, 1 - EDGE / 2)] == [True, True, False, True]
    closed = replace(plain, more_below=False, more_above=False)
    assert not any(closed.at_edge(value) for value in (0.0, 0.5, 1.0))
    rate = Interval("h", 1e-4, 1e-1, origin=0.0)
    assert [rate.at_edge(value) for value in (1e-4, 1.5e-4, 3e-4, 1e-2, 9e-2)] == [True, True, False, False, True]
    below = Interval("h", -16.0, -1.0, origin=0.0, more_above=False)
    assert [below.at_edge(value) for value in (-16.0, -4.0, -1.0)] == [True, False, False]
    assert not space_of(ObjectiveSpec.parse("gce")).edges(Configuration(1e-3, 1e-4, (("q", 1.0),)))  # nothing lies beyond q = 1
    assert space_of(ObjectiveSpec.parse("gce")).edges(Configuration(3e-5, 1.0)) == ("learning_rate", "weight_decay")


def test_a_space_is_written_down_and_read_back() -> None:
    for name in comparable():
        space = space_of(ObjectiveSpec.parse(name))
        assert Space.from_list(space.as_list()) == space


def test_a_card_that_searches_where_it_may_not_does_not_register() -> None:
    for interval, said in ((Between(-1.0, 3.0), "within a range"), (Between(2.5, 3.0), "leaves out the default")):
        with pytest.raises(ValueError, match=said):
            cards._verify(made_up(Range(0), 2.0, search={"h": interval}))


def test_the_default_comes_first_and_the_rest_is_spread_evenly() -> None:
    space = space_of(ObjectiveSpec.parse("gce"))
    tried = quasi_random(space, 9, 3)
    assert tried[0] == Configuration()
    # van der Corput in base 2, however it is scrambled: eight points have one in each eighth
    shares = [math.log(one.learning_rate / 3e-5) / math.log(1e3) for one in tried[1:]]
    assert sorted(int(8 * share) for share in shares) == list(range(8))
    assert quasi_random(space, 9, 3) == tried
    assert quasi_random(space, 1, 3) == [Configuration()]
    assert {one.learning_rate for one in quasi_random(space, 9, 4)} != {one.learning_rate for one in tried}


def test_all_objectives_of_a_split_meet_the_same_learning_rates_and_weight_decays() -> None:
    met = {
        name: [(one.learning_rate, one.weight_decay) for one in quasi_random(space_of(ObjectiveSpec.parse(name)), 12, 5)]
        for name in ("brier_loss", "gce", "symmetric_cross_entropy", "active_passive_loss")
    }
    assert all(pairs == met["brier_loss"] for pairs in met.values())


def test_every_objective_gets_the_same_budget() -> None:
    spec = StudySpec(data="wine", objectives="brier_loss,gce,active_passive_loss", seeds=2, configurations=5)
    trials = spec.trials("f")
    assert len({trial.key for trial in trials}) == len(trials) == 3 * 2 * 5
    for name in ("brier_loss", "generalized_cross_entropy", "active_passive_loss"):
        assert sum(trial.objective.name == name for trial in trials) == 10
    usual = [trial for trial in trials if trial.objective.hyper == () and trial.learning_rate == 1e-3 and trial.weight_decay == 0.01]
    assert len(usual) == 6  # the usual ones, as a grid would ask for them
    grid = StudySpec(data="wine", objectives="brier_loss,gce,active_passive_loss", seeds=2, learning_rates=1e-3).trials("f")
    assert {trial.key for trial in grid} == {trial.key for trial in usual}
