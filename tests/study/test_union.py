"""A study run in parts: every trial in exactly one, and the parts together are the whole, whatever overlaps, differs or is missing."""

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lossmith import study
from lossmith.study import Dataset, Store, StudyError, StudyResult, StudySpec
from lossmith.study.shard import Shard
from lossmith.study.stored import Answered
from lossmith.study.union import united_studies


def spec(**changes: Any) -> StudySpec:
    options = {"data": "wine", "objectives": "cross_entropy,gce:q=0.7", "model": "linear", "seeds": 3, "epochs": 2}
    return StudySpec(**options | {"learning_rates": [0.01, 0.1]} | changes)


def table(result: StudyResult) -> str:
    return result.table().to_csv()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_every_trial_is_in_one_part_and_parts_are_equally_long(count: int) -> None:
    trials = spec(seeds=11, learning_rates=[0.001, 0.01, 0.1]).trials("fingerprint")
    parts = [Shard(number, count).of(trials) for number in range(1, count + 1)]
    assert Counter(trial.key for part in parts for trial in part) == Counter(trial.key for trial in trials)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all([trials.index(trial) for trial in part] == sorted(trials.index(trial) for trial in part) for part in parts)


def test_more_seeds_move_no_trial_to_another_part() -> None:
    few, many = (spec(seeds=n).trials("fingerprint") for n in (4, 9))
    for number in (1, 2, 3):
        assert set(Shard(number, 3).of(few)) == set(Shard(number, 3).of(many)) & set(few)


def test_parts_mix_objectives_and_learning_rates() -> None:
    """Dealt in turn without a shuffle, each of two parts would hold one learning rate alone."""
    trials = spec(seeds=20).trials("fingerprint")
    for number in (1, 2):
        part = Shard(number, 2).of(trials)
        assert all(8 <= sum(trial.learning_rate == rate for trial in part) <= 32 for rate in (0.01, 0.1))
        assert len({trial.objective for trial in part}) == 2


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "1/0", "-1/4", "a/b", "1/2/3", "1.5/3"])
def test_what_is_no_shard_is_one_line(text: str) -> None:
    with pytest.raises(StudyError, match="--shard must be I/N"):
        Shard.parse(text)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """The stores of a study in three parts, on a path with spaces and letters of more than one byte."""
    paths = [tmp_path / f"teil ü {number}.sqlite" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        done = study.run_shard(spec(), f"{number}/3", path, jobs=1)
        assert done == (4, 4, 12)
    return paths


def test_parts_together_are_the_whole(parts: list[Path]) -> None:
    whole = study.run(spec(), jobs=1)
    before = [path.read_bytes() for path in parts]
    united = study.load_united(parts)
    assert table(united) == table(whole)
    assert united.notes == whole.notes
    assert [path.read_bytes() for path in parts] == before


def test_references_are_dealt_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n" + "".join(f"{i}.5,{i * i % 17},{'xy'[i % 3 == 0]}\n" for i in range(60)))
    asked = spec(data=str(tmp_path / "t.csv"), target="y", seeds=2)
    paths = [tmp_path / f"{number}.sqlite" for number in (1, 2)]
    done = [study.run_shard(asked, f"{number}/2", path, jobs=1) for number, path in enumerate(paths, 1)]
    assert [one.trials for one in done] == [6, 6]
    united, whole = study.load_united(paths), study.run(asked, jobs=1)
    assert table(united) == table(whole)
    assert united.references == whole.references


def test_overlapping_parts_count_once(parts: list[Path], tmp_path: Path) -> None:
    study.run(spec(seeds=2), tmp_path / "more.sqlite", jobs=1)
    both = [*parts, tmp_path / "more.sqlite", parts[0]]
    united = study.load_united(both, 0)  # the study in parts was asked for first
    assert table(united) == table(study.run(spec(), jobs=1))
    (note,) = united.notes
    assert "1 other study in this store had shown 4 results" in note  # that of two seeds; what was looked at comes along
    assert table(study.load_united(both)) == table(study.run(spec(seeds=2), jobs=1))
    assert "hold 2 different studies" in study.load_united(both).notes[-1]


def test_a_part_is_resumed(parts: list[Path]) -> None:
    calls: list[tuple[int, int]] = []
    done = study.run_shard(spec(), "2/3", parts[1], jobs=1, on_progress=lambda done, total, _: calls.append((done, total)))
    assert calls == [(4, 4)]
    assert done.done == 4


def test_what_is_missing_is_said(parts: list[Path]) -> None:
    with pytest.raises(StudyError, match=r"4 of 12 trials are missing: .*, seed \d, learning rate .* and 1 more") as caught:
        study.load_united(parts[:2])
    assert "\n" not in str(caught.value)
    named = Shard(3, 3).of(spec().trials(spec().load().fingerprint))
    assert f"{named[0].objective.label}, seed {named[0].seed}, learning rate {named[0].learning_rate:g}" in str(caught.value)
    with pytest.raises(StudyError, match=r"there is no store nowhere\.sqlite"):
        study.load_united([parts[0], "nowhere.sqlite"])
    with pytest.raises(StudyError, match="hold 1 study; there is no number 4"):
        study.load_united(parts, 4)
    with pytest.raises(StudyError, match="no store is named"):
        study.load_united([])


def test_different_numbers_of_one_trial_are_told_and_never_averaged(parts: list[Path], tmp_path: Path) -> None:
    """As a part run with another torch would have it."""
    other = tmp_path / "other.sqlite"
    with Store(parts[0]) as first, Store(other) as copy:
        row = next(row for row in first.rows() if json.loads(row.spec)["seed"] == 1)
        changed = json.loads(row.result)
        changed["last"]["test"]["accuracy"] = 0.123
        versions = json.loads(row.versions) | {"torch": "2.0.0"}
        copy.copy(row._replace(result=json.dumps(changed), versions=json.dumps(versions), digest=None))
    united = study.load_united([*parts, other])
    (note,) = united.notes
    assert "different numbers for the same trial, 1 in all; those of the store named first are used" in note
    assert row.name in note
    assert "torch 2.0.0" in note
    assert f"torch {study.load_united(parts).versions[0]['torch']}" in note
    assert table(united) == table(study.load_united(parts))
    others_first = study.load_united([other, *parts])
    assert 0.123 in {record["last"]["test"]["accuracy"] for record in others_first.trials.values()}


def test_the_time_a_trial_took_is_no_difference(parts: list[Path], tmp_path: Path) -> None:
    study.run_shard(spec(), "1/3", tmp_path / "again.sqlite", jobs=1)
    assert study.load_united([*parts, tmp_path / "again.sqlite"]).notes == ()


def test_a_damaged_row_is_left_out_and_named(parts: list[Path]) -> None:
    connection = sqlite3.connect(parts[1])
    with connection:
        connection.execute("UPDATE trials SET result = substr(result, 1, 9) WHERE key = (SELECT min(key) FROM trials)")
    connection.close()
    with pytest.raises(StudyError, match=r"1 of 12 trials are missing.*Rows that are damaged were left out: trial") as caught:
        study.load_united(parts)
    assert "\n" not in str(caught.value)


def test_a_store_of_something_else_is_named(parts: list[Path], tmp_path: Path) -> None:
    study.run(spec(noise="symmetric:0.3", seeds=1), tmp_path / "noisy.sqlite", jobs=1)
    united = study.load_united([*parts, tmp_path / "noisy.sqlite"], 0)
    assert table(united) == table(study.load_united(parts))
    assert any("Nothing of this study is in" in note and "noisy.sqlite" in note for note in united.notes)


def test_stores_become_one(parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.sqlite"
    assert study.unite(parts, whole) == []
    assert study.unite(parts, whole) == []
    assert table(study.load(whole)) == table(study.load_united(parts))
    monkeypatch.setattr("lossmith.study.engine.run_trials", None)
    study.run(spec(), whole, jobs=1)  # nothing is left to compute


def test_a_part_that_runs_out_of_time_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lossmith.study import engine
    from lossmith.study.budget import Budget

    now = [0.0]
    real = engine.run_trials

    def run_trials(trials: list[Any], dataset: Dataset) -> list[Any]:
        now[0] += 100
        return real(trials, dataset)

    monkeypatch.setattr(engine, "run_trials", run_trials)
    monkeypatch.setattr(engine, "Budget", lambda seconds: Budget(seconds, lambda: now[0]))
    first = study.run_shard(spec(time="1m"), "1/2", tmp_path / "s.sqlite", jobs=1)
    assert 0 < first.done < first.trials == 6
    for _ in range(6):
        last = study.run_shard(spec(time="1m"), "1/2", tmp_path / "s.sqlite", jobs=1)
    assert last.done == 6


# Tuned studies


def searched(**changes: Any) -> StudySpec:
    return spec(**{"learning_rates": None, "configurations": 3, "objectives": "cross_entropy,gce", "seeds": 2} | changes)


def test_a_search_is_dealt_as_a_grid_is(tmp_path: Path) -> None:
    asked, paths = searched(), [tmp_path / f"{number}.sqlite" for number in (1, 2)]
    assert [study.run_shard(asked, f"{number}/2", path, jobs=1) for number, path in enumerate(paths, 1)] == [(6, 6, 12)] * 2
    united, whole = study.load_united(paths), study.run(asked, jobs=1)
    assert table(united) == table(whole)
    assert united.spec == whole.spec
    with pytest.raises(StudyError, match=r"6 of 12 trials are missing: .*, seed \d, configuration [123];.* and 3 more"):
        study.load_united(paths[:1])


@pytest.mark.parametrize(
    ("how", "option"),
    [({"tuner": "optuna"}, "--tuner optuna"), ({"tune_once": True}, "--tune-once"), ({"stop_hopeless": True}, "--stop-hopeless")],
)
def test_what_decides_by_results_cannot_be_dealt(tmp_path: Path, how: dict[str, Any], option: str) -> None:
    with pytest.raises(StudyError, match=f"--shard deals trials that are known beforehand, and {option}") as caught:
        study.run_shard(searched(**how), "1/2", tmp_path / "s.sqlite", jobs=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.sqlite").exists()


@pytest.mark.parametrize("how", [{"tune_once": True}, {"tuner": "optuna"}, {"stop_hopeless": True, "seeds": 3}], ids=str)
def test_studies_that_decide_by_results_are_united_whole(tmp_path: Path, how: dict[str, Any]) -> None:
    whole = study.run(searched(**how), tmp_path / "one.sqlite", jobs=1)
    study.run(spec(seeds=1), tmp_path / "two.sqlite", jobs=1)
    stores = [tmp_path / "two.sqlite", tmp_path / "one.sqlite"]
    study.unite(stores, tmp_path / "both.sqlite")
    place = [one.spec for one in united_studies(stores)].index(whole.spec)
    for found in (study.load_united(stores, place), study.load(tmp_path / "both.sqlite", place)):
        assert table(found) == table(whole)
        assert found.ended == whole.ended
        assert found.trials.keys() == whole.trials.keys()


def test_looks_and_answers_are_united(tmp_path: Path) -> None:
    one, two, both = (tmp_path / f"{name}.sqlite" for name in ("one", "two", "both"))
    study.run(spec(seeds=2), one, jobs=1)
    study.run(spec(seeds=1, epochs=1), two, jobs=1)
    with Store(one) as store:
        store.copy_answer(Answered("h", "q", 0.5, 0.6, 0.5, "2026-01-02"))
    with Store(two) as store:
        store.copy_answer(Answered("h", "q", 0.5, 0.6, 0.7, "2026-01-01"))
        store.copy_answer(Answered("h", "earlier", 0.1, 0.2, 0.3, "2026-01-01"))
        (look,) = store.looks()
        store.copy_look(look._replace(created="1999-01-01"))
        assert [one.created for one in store.looks()] == ["1999-01-01"]
    study.unite([one, two], both)
    study.unite([one, two], both)
    with Store(both) as store:
        assert [(one.question, one.answer) for one in store.answers("h")] == [("earlier", 0.3), ("q", 0.5)]  # the first store's, in time
        assert [one.created for one in store.looks()][1] == "1999-01-01"
    found = study.load(both, 0)
    assert found.spec.epochs == 2
    assert found.looks == (1, 2)  # the other store's was shown before, in 1999
    assert study.load(both, 1).looks == (0, 0)


def test_thresholdout_needs_one_store(tmp_path: Path) -> None:
    asked = spec(data="digits", holdout="thresholdout")
    paths = [tmp_path / f"{number}.sqlite" for number in (1, 2)]
    for number, path in enumerate(paths, 1):
        study.run_shard(asked, f"{number}/2", path, jobs=1)
    with pytest.raises(StudyError, match="unite the stores"):
        study.load_united(paths)
    study.unite(paths, tmp_path / "both.sqlite")
    assert table(study.load(tmp_path / "both.sqlite")) == table(study.run(asked, jobs=1))
    with Store(tmp_path / "both.sqlite") as store:
        assert len(store.answers()) == 6
