"""Any objective as a Module: it prints, pickles, learns its hyper-parameters and moves its tensors."""

import pickle

import pytest
import torch
from torch import nn

import lossmith

X, Y = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])


def test_it_is_the_function_with_its_options_fixed():
    module = lossmith.objective("gce", q=0.3, reduction="none")
    assert torch.equal(module(X, Y), lossmith.generalized_cross_entropy(X, Y, q=0.3, reduction="none"))
    assert torch.equal(module(X, Y, reduction="sum"), lossmith.generalized_cross_entropy(X, Y, q=0.3, reduction="sum"))
    assert repr(module) == "Objective(generalized_cross_entropy, q=0.3, reduction='none')"


def test_a_learnable_hyper_parameter_is_a_parameter():
    module = lossmith.objective("gce", q=nn.Parameter(torch.tensor(0.5)), weight=torch.ones(3))
    assert set(module.state_dict()) == {"fixed_q", "fixed_weight"}
    module(X, Y).backward()
    (q,) = module.parameters()
    assert q.grad is not None
    assert q.grad != 0
    again = lossmith.objective("gce", q=nn.Parameter(torch.tensor(0.9)), weight=torch.zeros(3))
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(X, Y), module(X, Y))


def test_it_pickles_and_moves():
    module = lossmith.objective("gce", q=0.3, weight=torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(pickle.loads(pickle.dumps(module))(X, Y), module(X, Y))
    assert module.double().fixed["weight"].dtype == torch.float64
    assert "weight=tensor(3,)" in repr(module)


def my_loss(input, target, scale=1.0):
    return scale * (input.sum() - target.sum())


def test_any_function_can_be_wrapped():
    module = lossmith.objective(my_loss, scale=2.0)
    assert module(X, Y) == my_loss(X, Y, scale=2.0)


@pytest.mark.parametrize(
    ("name", "hyper", "error", "message"),
    [
        ("gcee", {}, KeyError, "did you mean 'gce'"),
        ("gce", {"qq": 1}, TypeError, "generalized_cross_entropy: no option 'qq'; did you mean 'q'"),
        ("gce", {"q": 7}, ValueError, r"q must be in \(0, 1\]; got 7"),
    ],
)
def test_mistakes_are_found_when_it_is_made(name, hyper, error, message):
    with pytest.raises(error, match=message):
        lossmith.objective(name, **hyper)
