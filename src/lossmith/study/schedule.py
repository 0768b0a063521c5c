"""Which trials a study asks for, and when: all at once where they are known beforehand, else in rounds.

A round holds what can be computed without knowing the results of one another. Rounds follow each other where a tuner learns from what it
was told, where all seeds take what a few others were tuned to, and where hopeless objectives are ended after a seed.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from lossmith.study.protocol import fitting_test
from lossmith.study.sizes import Sizes
from lossmith.study.spec import STOPS, StudySpec, TrialSpec
from lossmith.study.statistics.paired import Test
from lossmith.study.statistics.stopping import hopeless
from lossmith.study.training.objectives import ObjectiveSpec
from lossmith.study.training.yardsticks import Yardstick
from lossmith.study.tuning.configuration import Configuration
from lossmith.study.tuning.selection import select
from lossmith.study.tuning.tuner import MakeTuner, Tuner
from lossmith.study.tuning.validation import ValidationRecord

Task = TrialSpec | Yardstick
_Rounds = Generator[list[Task], None, bool]
"""Rounds, and whether all of them were computed."""
Records = Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]


class _Search(NamedTuple):
    """The tuning of an objective on some splits together."""

    objective: ObjectiveSpec
    draws: tuple[int, ...]
    tuner: Tuner


class _Reached(NamedTuple):
    """The primary metric of what validation rows chose on a split, None where it diverged, and the rows that trained, validated, tested."""

    value: float | None
    rows: tuple[int, int, int]


class Schedule:
    """The trials of a study.

    Args:
        spec: the study.
        fingerprint: of its data.
        references: outside the comparison.
        make: the tuners.
        records: the records of those of the given keys that are stored.
    """

    def __init__(self, spec: StudySpec, fingerprint: str, references: Sequence[Yardstick], make: MakeTuner, records: Records) -> None:
        self._spec, self._references, self._make, self._records = spec, references, make, records
        self._trial = spec.maker(fingerprint)
        self.ended: dict[str, int] = {}
        """For each objective that was ended as hopeless, after how many seeds."""
        self._tried: dict[tuple[str, int], dict[Configuration, TrialSpec]] = {}
        self._reached: dict[tuple[str, int], _Reached] = {}
        self._slots: Counter[tuple[str, int]] = Counter()
        self._chosen: dict[str, tuple[Configuration, ...]] = {}
        self._asked = {reference.key for reference in references}
        self._a_split = 1 if spec.tune_once else spec.budget
        self._to_come = spec.foreseen

    @property
    def total(self) -> int:
        """How many trials there will be, as far as is known."""
        return len(self._asked) + self._to_come

    def rounds(self) -> Generator[list[Task], None, None]:
        """The rounds one after the other; the next is asked for when the one before is stored, and there is none if it is not."""
        spec = self._spec
        references = list(self._references)
        if spec.tune_once:
            tuning = [
                _Search(objective, tuple(spec.tuning_draws), self._make(objective, min(spec.tuning_draws))) for objective in spec.objectives
            ]
            if not (yield from self._tuned(tuning)):
                return
            self._chosen = {objective.label: self._choices(objective) for objective in spec.objectives}
        for draws in self._waves():
            seeds = {spec.draws[draw][0] for draw in draws}
            beside = [one for one in references if one.seed in seeds]  # first: they are quick, and every seed that is done should have them
            active = [objective for objective in spec.objectives if objective.label not in self.ended]
            whole = yield from self._tested(active, draws, beside) if spec.tune_once else self._searched(active, draws, beside)
            if not whole:
                return
            if spec.stop_hopeless is not None:
                self._end_hopeless(draws[-1])

    def _waves(self) -> list[list[int]]:
        """The splits that are taken together: all, or a seed after the other where it matters which is finished first."""
        spec = self._spec
        if spec.stop_hopeless is None and (spec.time is None or not spec.sequential):
            return [list(spec.draws)]
        return [[draw for draw, (of, _) in spec.draws.items() if of == seed] for seed in spec.seeds]

    def _searched(self, objectives: Sequence[ObjectiveSpec], draws: Sequence[int], beside: Sequence[Task]) -> _Rounds:
        searches = [_Search(objective, (draw,), self._make(objective, draw)) for draw in draws for objective in objectives]
        return (yield from self._tuned(searches, beside))

    def _tested(self, objectives: Sequence[ObjectiveSpec], draws: Sequence[int], beside: Sequence[Task]) -> _Rounds:
        """The splits that are tested, by what was chosen on others."""
        asked: list[Task] = [*beside]
        for draw in draws:
            for objective in objectives:
                asked += [self._place(objective, draw, configuration) for configuration in self._chosen[objective.label]]
                self._slots[objective.label, draw] += 1
                self._to_come -= 1
        yield _once(asked)
        return _whole(asked, self._records([task.key for task in asked]))

    def _tuned(self, searches: Sequence[_Search], beside: Sequence[Task] = ()) -> _Rounds:
        """Ask the tuners and tell them, until none asks for more; whether everything was computed."""
        first: list[Task] = [*beside]
        while True:
            rounds = [(search, configuration) for search in searches for configuration in search.tuner.ask()]
            if not rounds and not first:
                return True
            trials = [[self._place(search.objective, draw, one) for draw in search.draws] for search, one in rounds]
            self._slots.update((search.objective.label, draw) for search, _ in rounds for draw in search.draws)
            self._to_come -= sum(map(len, trials))
            asked = [*first, *(trial for some in trials for trial in some)]
            yield _once(asked)
            found = self._records([task.key for task in asked])
            if not _whole(asked, found):
                return False
            first = []
            for (search, configuration), some in zip(rounds, trials, strict=True):
                search.tuner.tell(configuration, [ValidationRecord(found[trial.key]) for trial in some])

    def _place(self, objective: ObjectiveSpec, draw: int, configuration: Configuration) -> TrialSpec:
        trial = self._trial(objective, draw, configuration)
        self._tried.setdefault((objective.label, draw), {})[configuration] = trial
        self._asked.add(trial.key)
        return trial

    def _choices(self, objective: ObjectiveSpec) -> tuple[Configuration, ...]:
        """What the splits that are tuned on choose together, for each stop; often the same."""
        places = [self._tried[objective.label, draw] for draw in self._spec.tuning_draws]
        found = self._records([trial.key for place in places for trial in place.values()])
        tried = {one: [found[place[one].key] for place in places] for one in places[0]}
        return tuple(select(self._spec.metric, tried, stop) for stop in STOPS)

    def _end_hopeless(self, latest: int) -> None:
        """End the objectives for which a worthwhile advantage is excluded by the splits up to this one."""
        spec = self._spec
        draws = [draw for draw in spec.draws if (spec.objectives[0].label, draw) in self._tried]
        active = [objective.label for objective in spec.objectives if objective.label not in self.ended]
        reached = {label: [self._outcome(label, draw) for draw in draws] for label in active}
        sizes = Sizes.mean(one.rows for some in reached.values() for one in some)
        over = hopeless(
            {label: [one.value for one in some] for label, some in reached.items()}, spec.objectives[0].label, spec.metric,
            train_size=sizes.train, test_size=sizes.test, test=fitting_test(spec, cast("Test", spec.stop_hopeless)),
        )  # fmt: skip
        left = len(spec.draws) - len(draws)
        for label in over if left else ():
            self.ended[label] = len(draws)
            self._to_come -= left * self._a_split

    def _outcome(self, label: str, draw: int) -> _Reached:
        """What an objective reached on a split that is done; it is looked up once."""
        if (label, draw) not in self._reached:
            spec, place = self._spec, self._tried[label, draw]
            found = self._records([trial.key for trial in place.values()])
            record = found[place[select(spec.metric, {one: [found[trial.key]] for one, trial in place.items()}, spec.stop)].key]
            value = record[spec.stop]["test"][spec.metric] if record["status"] == "ok" else None
            rows = record["rows"]
            self._reached[label, draw] = _Reached(value, (rows["train"], rows["validation"], rows["test"]))
        return self._reached[label, draw]

    def keys(self, seeds: Sequence[int] | None = None) -> tuple[str, ...]:
        """The keys of a study of these seeds: those tuned on, split by split and objective by objective, then the references."""
        spec = self._spec
        wanted = set(spec.seeds if seeds is None else seeds)
        places = [self._tried.get((objective.label, draw), {}) for draw in self._draws(seeds) for objective in spec.objectives]
        own = [trial.key for place in places for trial in place.values()]
        return (*own, *(reference.key for reference in self._references if reference.seed in wanted))

    def counts(self, seeds: Sequence[int] | None = None) -> list[int]:
        """How many of `keys` belong to each split and objective, in their order."""
        spec = self._spec
        return [len(self._tried.get((objective.label, draw), {})) for draw in self._draws(seeds) for objective in spec.objectives]

    def _draws(self, seeds: Sequence[int] | None) -> list[int]:
        wanted = set(self._spec.seeds if seeds is None else seeds)
        return [*self._spec.tuning_draws, *(draw for draw, (seed, _) in self._spec.draws.items() if seed in wanted)]

    def whole_seeds(self) -> tuple[int, ...]:
        """The seeds of which everything is stored."""
        return tuple(seed for seed in self._spec.seeds if self._whole(seed))

    def _whole(self, seed: int) -> bool:
        spec = self._spec
        keys = {reference.key for reference in self._references if reference.seed == seed}
        for position, (draw, (of, _)) in enumerate(spec.draws.items()):
            if of != seed:
                continue
            for objective in spec.objectives:
                if position >= self.ended.get(objective.label, len(spec.draws)):
                    continue
                place = (objective.label, draw)
                if self._slots[place] < self._a_split:
                    return False
                keys |= {trial.key for trial in self._tried[place].values()}
        return len(self._records(list(keys))) == len(keys)


def _once(tasks: Sequence[Task]) -> list[Task]:
    return list({task.key: task for task in tasks}.values())


def _whole(tasks: Sequence[Task], found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a round is whole: it is not, when the time was over."""
    return len(found) == len({task.key for task in tasks})
