"""The card on screen, as JSON, and the curve of loss and gradient against the margin."""

import json
import math

import pytest
import torch

from lossmith.card import Card, Claims, all_cards, get
from lossmith.cli import curves


@pytest.mark.parametrize("name", list(all_cards()))
def test_every_card_can_be_shown(lossmith, name):
    ran = lossmith("show", name)
    assert ran.status == 0
    card = get(name)
    for text in (card.name, card.use_when, "claims", "shift_invariant"):
        assert text in ran.out
    for debt in card.claims.debts():
        assert "not claimed: a debt" in ran.out
        assert debt in ran.out


def test_an_alias_shows_the_objective(lossmith):
    assert lossmith("show", "gce").out == lossmith("show", "generalized_cross_entropy").out


def test_json(lossmith):
    facts = json.loads(lossmith("show", "gce", "--json").out)
    assert facts["name"] == "generalized_cross_entropy"
    assert facts["hyper_parameters"] == {"q": {"default": 0.7, "range": "(0, 1]"}}
    assert facts["claims"]["convex"]["value"] is False
    assert facts["claims"]["bounds"]["value"] == f"0 to {1 / 0.7:g} at q = 0.7"
    assert facts["debts"] == get("gce").claims.debts()
    assert "curve" not in facts


def test_the_convex_function_at_the_hyper_parameters_given(lossmith):
    assert "D_f(e_y || p) with f = alpha_tsallis(alpha=0.5)" in lossmith("show", "gce:q=0.5").out
    assert json.loads(lossmith("show", "gce:q=1", "--json").out)["instances"] == ["D_f(e_y || p) with f = total_variation"]
    assert "instance of" not in lossmith("show", "focal_loss").out


def test_a_convex_function_by_name(lossmith, refused):
    shown = lossmith("show", "f_divergence_loss:generator=skew_kl(skew=0.1)").out
    assert "D_f(e_y || p) with f = skew_kl(skew=0.1)" in shown
    assert refused("show", "f_divergence_loss:generator=jensen_shanon").endswith(
        "generator must be in lossmith.generators, or an FGenerator; got 'jensen_shanon'; did you mean 'jensen_shannon'?"
    )
    assert "did you mean 'skew_kl(skew=...)'?" in refused("show", "f_divergence_loss:generator=skew_kl")


def test_a_surrogate_says_that_its_value_means_nothing(lossmith, refused):
    assert "only its gradient does" in lossmith("show", "ensloss").out
    assert "only its gradient does" not in lossmith("show", "cross_entropy").out
    assert "nothing to plot" in refused("show", "ensloss", "--plot")


def test_the_curve_of_a_student_is_least_at_its_teacher():
    drawn = curves.curve(get("divergence_distillation"), {})
    least = min(range(len(drawn.losses)), key=drawn.losses.__getitem__)
    assert drawn.margins[least] == pytest.approx(2.0)
    assert drawn.losses[least] == pytest.approx(0.0, abs=1e-12)


def test_a_proof_names_its_source(lossmith):
    facts = json.loads(lossmith("show", "cross_entropy", "--json").out)
    assert facts["claims"]["convex"]["evidence"].startswith("proved: log-sum-exp is convex")


def test_unknown_objective_offers_the_nearest(refused):
    assert refused("show", "cross_entrpy") == "lossmith show: no objective is called 'cross_entrpy'; did you mean 'cross_entropy'?"


def test_a_hyper_parameter_out_of_range(refused):
    assert refused("show", "gce:q=1.5") == "lossmith show: generalized_cross_entropy: q must be in (0, 1]; got 1.5"


def test_an_unknown_hyper_parameter(refused):
    assert "no hyper-parameter 'p'; it takes q" in refused("show", "gce:p=1", status=2)
    assert "name=value" in refused("show", "gce:0.7", status=2)


def test_the_curve_of_cross_entropy_is_softplus():
    drawn = curves.curve(get("cross_entropy"), {})
    margins = torch.tensor(drawn.margins, dtype=torch.float64)
    assert torch.allclose(torch.tensor(drawn.losses, dtype=torch.float64), torch.nn.functional.softplus(-margins))
    assert torch.allclose(torch.tensor(drawn.slopes, dtype=torch.float64), -torch.sigmoid(-margins))


def test_the_curve_follows_the_hyper_parameter(lossmith):
    losses = json.loads(lossmith("show", "gce:q=1", "--plot", "--json").out)["curve"]["losses"]
    assert losses[0] == pytest.approx(1 - 1 / (1 + math.exp(6)))


def test_a_single_logit_is_the_margin():
    def function(z, t, reduction):
        assert reduction == "none"
        return torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")

    drawn = curves.curve(unregistered(function, "binary"), {})
    assert drawn.losses[0] == pytest.approx(math.log1p(math.exp(6)))


def test_a_state_has_no_curve():
    with pytest.raises(Exception, match="keeps a state"):
        curves.curve(unregistered(lambda: None, "stateful"), {})


def unregistered(function, form: str) -> Card:
    return Card("f", function, function, form, "s", "s", "u", "f", Claims())


def test_the_plot_in_the_terminal(lossmith):
    ran = lossmith("show", "cross_entropy", "--plot")
    assert "loss of cross_entropy:label_smoothing=0.0" in ran.out
    assert "its gradient" in ran.out
    assert "█" in ran.out


def test_a_chart_rises_where_the_values_do_and_leaves_gaps():
    rows = curves.chart([0.0, 1.0, math.nan, math.inf, 2.0], height=2)
    assert rows[0].endswith("┤    █")
    assert rows[1].endswith("┤▁█  █")
    assert curves.chart([math.nan]) == ["(nowhere finite)"]


def test_plot_may_stand_before_the_name(lossmith):
    assert lossmith("show", "--plot", "gce").out == lossmith("show", "gce", "--plot").out


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_plot_file(lossmith, tmp_path, suffix, magic):
    ran = lossmith("show", "gce", "--plot", f"gce.{suffix}")
    assert ran.status == 0
    first = (tmp_path / f"gce.{suffix}").read_bytes()
    assert first.startswith(magic)
    lossmith("show", "gce", "--plot", f"again.{suffix}")
    assert (tmp_path / f"again.{suffix}").read_bytes() == first


def test_a_plot_that_cannot_be_written(refused):
    assert ".png, .svg, .pdf" in refused("show", "gce", "--plot", "gce.jpg")
    assert "no/such/gce.svg" in refused("show", "gce", "--plot", "no/such/gce.svg")
