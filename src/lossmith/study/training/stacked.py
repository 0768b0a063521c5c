"""Trials trained in step: what a batch costs beside its matrix products is paid once for all of them.

Trials take their batches at the same time. Those that minimise the same objective, whatever its real-valued hyper-parameters, have it
evaluated in one call on the logits of all, where that gives the bits that one call each gives; every other objective is called trial by
trial, with the state, the row numbers and the random numbers that are that trial's own. No number of a trial depends on which others were
trained beside it.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from lossmith.study.training.chain import Chain, Layer, Scratch, bytes_of, layers_of, same_bits
from lossmith.study.training.criterion import Criterion, Together, numbers_of
from lossmith.study.training.objectives import ObjectiveSpec, facts
from lossmith.study.training.run import ROWS_AT_ONCE, Run, batches
from lossmith.study.tuning.space import Interval, space_of

CHAIN_BYTES, LONGEST_CHAIN = 1 << 20, 16
"""What the models of a chain hold on to: about what stays in the cache of one core from the forward to the backward pass; and how many
they are. More gain little."""


def batch_sizes(n: int, batch_size: int) -> set[int]:
    """The sizes of those batches."""
    pieces = math.ceil(n / batch_size)
    return {n // pieces, -(-n // pieces)}


def stackable(run: Run) -> list[Layer] | None:
    """The layers of a run's model, when it can be trained in step with others, its numbers unmoved: by what model and objective are."""
    layers = layers_of(run.model, run.split.x_train.shape[1:])
    if layers is None or any(True for _ in run.criterion.parameters()):
        return None
    return layers if _same_bits(run, layers, 1) else None


def _same_bits(run: Run, layers: Sequence[Layer], k: int) -> bool:
    """Whether k such models can be one chain on the rows of a run."""
    looked_at = {len(rows) for x in (run.split.x_validation, run.split.x_test) for rows in x.split(ROWS_AT_ONCE)}
    return all(same_bits(layers, n, k) for n in looked_at | batch_sizes(len(run.split.y_train), run.trial.batch_size))


def train_stack(runs: Sequence[Run], layers: Sequence[Sequence[Layer]]) -> None:
    """Train runs that are `stackable`, with these layers, equally many training rows, epochs and batches, to the end.

    A run that fails keeps the exception as its `failure` and leaves; a run that diverges leaves after its epoch; the others go on.
    """
    often = Counter(run.criterion.kind for run in runs)
    feeds: dict[int, _Feed] = {}
    members = [_Member(run, own, feeds.setdefault(id(run.split), _Feed(run))) for run, own in zip(runs, layers, strict=True)]
    teams = _teams(members)
    teams = [team for team in teams if team.come_through(lambda member: member.begin(often[member.run.criterion.kind]))]
    for epoch in range(1, runs[0].trial.epochs + 1):
        if not teams:
            return
        for feed in {id(team.feed): team.feed for team in teams}.values():
            feed.turn()
        _epoch(teams)
        teams = [team for team in teams if team.finish(epoch)]


class _Feed:
    """The batches of one seed, for all runs of that seed."""

    def __init__(self, run: Run) -> None:
        self._split, self._size, self._generator = run.split, run.trial.batch_size, run.batches
        self.rows = len(run.split.y_train)

    def turn(self) -> None:
        """Draw the order of another epoch."""
        self.batches = [(x.flatten(1), y, index) for x, y, index in batches(self._split, self._size, self._generator)]
        _, targets, indices = zip(*self.batches, strict=True)
        self.targets, self.indices = torch.cat(targets), torch.cat(indices)


class _Member:
    """A run in a stack."""

    def __init__(self, run: Run, layers: Sequence[Layer], feed: _Feed) -> None:
        self.run, self.layers, self.feed = run, layers, feed
        self.random = run.random_state()
        self.logits = self.gradient = torch.empty(0)
        self.total = 0.0
        self.shared = False

    @property
    def going(self) -> bool:
        """Whether it has neither failed nor diverged."""
        return self.run.failure is None and self.run.status == "ok"

    def guarded(self, action: Callable[[], None]) -> bool:
        """Whether an action on behalf of this run went well; what it raised otherwise is the run's failure."""
        try:
            action()
        except Exception as error:  # a user's objective or model may raise anything
            self.run.failure = error
        return self.run.failure is None

    def begin(self, often: int) -> None:
        """Measure the untrained model; find out whether the objective, that of so many members, can be evaluated for all in one call."""
        self.run.begin()
        if often > 1 and self.run.criterion.shared:
            sizes = batch_sizes(self.feed.rows, self.run.trial.batch_size)
            # 15 rows are all end of an array, and many small batches find what is seldom rounded otherwise there
            tried = [(15, 64), *((n, 4) for n in sizes)]
            self.shared = all(same_rows(_usual(self.run.trial.objective), self.run.n_classes, n, k) for n, k in tried)

    def finish(self, epoch: int) -> None:
        self.run.finish(epoch, self.total / self.feed.rows)

    def evaluate(self, i: int) -> None:
        """The objective and its gradient on the logits of batch i alone, with the random numbers of this run."""
        _, target, index = self.feed.batches[i]
        torch.set_rng_state(self.random)
        logits = self.logits.clone().requires_grad_()
        loss = self.run.criterion(logits, target, index)
        (self.gradient,) = torch.autograd.grad(loss, logits)
        self.random = torch.get_rng_state()
        self.total += loss.item() * len(target)


class _Team:
    """Members of one seed, whose models are one chain."""

    def __init__(self, members: Sequence[_Member], scratch: Scratch) -> None:
        self.members, self.feed = list(members), members[0].feed
        trials = [member.run.trial for member in members]
        rates, decays = [trial.learning_rate for trial in trials], [trial.weight_decay for trial in trials]
        self._chain = Chain([member.layers for member in members], rates, scratch, decays)
        self._looks: dict[tuple[int, int], Tensor] = {}
        for member in members:
            member.run.predict = partial(self._predict, member)

    def _predict(self, member: _Member, x: Tensor) -> Tensor:
        """The logits of one member. Those of the others come with them, and are kept for them until the weights move."""
        key = x.data_ptr(), x.shape[0]
        if key not in self._looks:
            self._looks[key] = self._chain.predict(x)
        return self._looks[key][self.members.index(member)].clone()

    def forward(self, i: int) -> None:
        """The logits of batch i."""
        for member, logits in zip(self.members, self._chain.forward(self.feed.batches[i][0]), strict=True):
            member.logits = logits

    def step(self, i: int) -> None:
        """A step on the gradients in them; nobody will ask where the models of members that have left are led."""
        gradients = [member.gradient if member.going else torch.zeros_like(member.logits) for member in self.members]
        self._chain.step(self.feed.batches[i][0], gradients)
        self._looks.clear()

    def finish(self, epoch: int) -> bool:
        """Measure the members after an epoch. False when none goes on."""
        trials = [member.run.trial for member in self.members]
        if epoch == trials[0].epochs or any(trial.probes for trial in trials):  # probes are asked of the models themselves
            self._chain.hand_back()
        return self.come_through(lambda member: member.finish(epoch))

    def come_through(self, action: Callable[[_Member], None]) -> bool:
        """Act on behalf of each member that goes on, and go on with those that still do. False when none does."""
        for member in self.members:
            if member.going:
                member.guarded(partial(action, member))
        going = [place for place, member in enumerate(self.members) if member.going]
        fewer = 0 < len(going) < len(self.members)
        if fewer and _same_bits(self.members[0].run, self.members[0].layers, len(going)):  # else those that left are taken along
            self.members = [self.members[place] for place in going]
            self._chain.keep(going)
            self._looks.clear()
        return bool(going)


def _teams(members: Sequence[_Member]) -> list[_Team]:
    """The members by seed and shape of model, as many in a team as keep what they work on in the cache."""
    alike: dict[tuple[Any, ...], list[_Member]] = {}
    for member in members:
        shapes = tuple((*layer.weight.shape, layer.relu) for layer in member.layers)
        alike.setdefault((id(member.feed), shapes), []).append(member)
    scratch = Scratch()
    teams = []
    for some in alike.values():
        run, layers = some[0].run, some[0].layers
        size = max(1, min(LONGEST_CHAIN, CHAIN_BYTES // bytes_of(layers, run.trial.batch_size)))
        for start in range(0, len(some), size):
            team = some[start : start + size]
            pieces = [team] if _same_bits(run, layers, len(team)) else [[member] for member in team]
            teams += [_Team(piece, scratch) for piece in pieces]
    return teams


def _epoch(teams: Sequence[_Team]) -> None:
    """One pass over the training rows."""
    members = [member for team in teams for member in team.members if member.going]
    together, alone = _by_objective(members)
    for member in members:
        member.total = 0.0
    for i in range(len(teams[0].feed.batches)):
        for team in teams:
            team.forward(i)
        for group in together:
            group.evaluate(i)
        for member in alone:
            member.guarded(partial(member.evaluate, i))
        alone = [member for member in alone if member.going]
        together = [group for group in together if not group.failed]
        for team in reversed(teams):  # the latest logits are still in the cache
            team.step(i)


def _by_objective(members: Sequence[_Member]) -> tuple[list["_Group"], list[_Member]]:
    """The groups whose objective is evaluated in one call, and the members whose objective is not."""
    groups: dict[tuple[object, int], list[_Member]] = {}
    for member in members:
        if member.shared:  # an objective that counts classes is another one for another training set
            key = (member.run.criterion.kind, id(member.feed) if member.run.criterion.counts else 0)
            groups.setdefault(key, []).append(member)
    return [_Group(group) for group in groups.values()], [member for member in members if not member.shared]


class _Group:
    """Members whose objective is evaluated in one call, for one epoch."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members
        self._criteria = Together([member.run.criterion for member in members])
        feeds = [member.feed for member in members]
        pieces = len(feeds[0].batches)
        targets, indices = torch.stack([feed.targets for feed in feeds]), torch.stack([feed.indices for feed in feeds])
        self._batches = list(zip(targets.tensor_split(pieces, 1), indices.tensor_split(pieces, 1), strict=True))

    @property
    def failed(self) -> bool:
        """Whether the call raised, which fails all of them."""
        return self._members[0].run.failure is not None

    def evaluate(self, i: int) -> None:
        """The objective and its gradient on the logits of batch i of each."""
        logits = torch.stack([member.logits for member in self._members]).requires_grad_()
        targets, indices = self._batches[i]
        try:
            losses = self._criteria(logits, targets, indices)
            (gradients,) = torch.autograd.grad(losses.sum(), logits)
        except Exception as error:  # another package's objective may raise anything
            for member in self._members:
                member.run.failure = error
            return
        for member, gradient, loss in zip(self._members, gradients.unbind(), losses.tolist(), strict=True):
            member.gradient = gradient
            member.total += loss * targets.shape[1]


def _usual(objective: ObjectiveSpec) -> ObjectiveSpec:
    """The objective with the usual value of every number that may be a tensor: one for all that can be evaluated in one call."""
    known = facts(objective.name)
    numbers = numbers_of(objective, known)
    usual = {} if known.card is None else known.card.hyper
    hyper = tuple((name, usual[name] if name in numbers and type(usual[name]) is float else value) for name, value in objective.hyper)
    return ObjectiveSpec(objective.name, hyper)


@lru_cache(maxsize=1024)
def same_rows(objective: ObjectiveSpec, n_classes: int, n: int, k: int) -> bool:
    """Whether, on this machine and with this torch, one call for k batches of n rows gives the bits of a call each.

    Tried on made-up logits, with hyper-parameters from all over where they are searched. It need not be so: a power, for one, may be
    rounded otherwise at the end of an array than in its middle.
    """
    draw = torch.Generator().manual_seed(n)
    counts, index = torch.arange(1, n_classes + 1), torch.arange(n)
    specs = _spread(objective, k)
    alone = [Criterion(one, counts, n) for one in specs]
    try:
        together = Together([Criterion(one, counts, n) for one in specs])
    except TypeError:
        return False
    for _ in range(2):  # the second time with whatever state the first has left
        logits = (3 * torch.randn(k, n, n_classes, generator=draw)).requires_grad_()
        targets = torch.randint(n_classes, (k, n), generator=draw)
        try:
            losses = together(logits, targets, index.expand(k, n))
            (gradients,) = torch.autograd.grad(losses.sum(), logits)
        except Exception:  # what cannot be evaluated so is evaluated trial by trial, and if it fails there, is heard of
            return False
        for criterion, z, target, loss, gradient in zip(alone, logits.detach(), targets, losses, gradients, strict=True):
            z = z.clone().requires_grad_()
            wanted = criterion(z, target, index)
            if not torch.equal(loss, wanted) or not torch.equal(gradient, *torch.autograd.grad(wanted, z)):
                return False
    return True


def _spread(objective: ObjectiveSpec, k: int) -> list[ObjectiveSpec]:
    """The objective k times, with its numbers spread over the intervals where they are searched."""
    numbers = numbers_of(objective, facts(objective.name))
    fixed = ObjectiveSpec(objective.name, tuple((name, value) for name, value in objective.hyper if name not in numbers))
    searched = [one for one in space_of(fixed).dimensions if isinstance(one, Interval) and one.name in numbers]
    spread = ({one.name: one.at(((i + 1 / 2) / k * (j + 1)) % 1) for j, one in enumerate(searched)} for i in range(k))
    return [ObjectiveSpec(objective.name, tuple(sorted({**dict(objective.hyper), **one}.items()))) for one in spread]
