"""Everything derived from a convex function: in the terminal, as JSON and as a picture."""

import json
import math

import pytest
import torch

from lossmith import generators
from lossmith.cli import derived, of_entropy, of_generator
from lossmith.divergences import divergence

GENERATORS = generators.all_generators()
ENTROPIES = generators.all_entropies()


@pytest.mark.parametrize("name", list(GENERATORS))
def test_every_generator_can_be_shown(lossmith, name):
    ran = lossmith("show", name, "--derived")
    assert ran.status == 0
    for text in (name, "reverse", "conjugate", "preference link", "weight of a score", "robust risk", "▕"):
        assert text in ran.out
    assert "nan" not in ran.out


@pytest.mark.parametrize("name", list(ENTROPIES))
def test_every_entropy_can_be_shown(lossmith, name):
    ran = lossmith("show", name, "--derived")
    assert ran.status == 0
    for text in (name, "margin", "proper loss", "regularised argmax", "Fenchel-Young loss"):
        assert text in ran.out


def test_a_convex_function_is_shown_without_being_asked_for_by_the_option(lossmith):
    assert lossmith("show", "kl").out == lossmith("show", "kl", "--derived").out


def test_an_objective_keeps_its_card(lossmith):
    assert "claims" in lossmith("show", "cross_entropy").out


def test_what_is_shown_is_what_the_library_computes(lossmith):
    shown = json.loads(lossmith("show", "kl", "--derived", "--json").out)
    assert shown["formula"] == r"f(u) = u \log u"
    curves = {one["title"]: one for one in shown["derived"]}
    p = torch.tensor(curves["divergence"]["xs"], dtype=torch.float64)
    q = torch.full_like(p, 0.3)
    expected = divergence(torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1), "kl")
    assert torch.tensor(curves["divergence"]["curves"]["D(p||q)"], dtype=torch.float64).equal(expected)
    r = curves["preference link"]
    assert r["curves"]["f'(e^r)"] == pytest.approx([1 + x for x in r["xs"]])
    losses = torch.tensor(curves["weights of a robust risk"]["xs"], dtype=torch.float64)
    weights = torch.tensor(curves["weights of a robust risk"]["curves"]["weight"], dtype=torch.float64)
    torch.testing.assert_close(weights / len(losses), losses.softmax(0))


def test_cross_entropy_is_shannons(lossmith):
    shown = json.loads(lossmith("show", "shannon", "--json").out)
    loss = {one["title"]: one for one in shown["derived"]}["Fenchel-Young loss"]
    margin = torch.tensor(loss["xs"], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(loss["curves"]["class 1"], dtype=torch.float64), torch.nn.functional.softplus(-margin))


def test_the_label_loss_that_is_refused_names_the_other(lossmith):
    out = lossmith("show", "reverse_kl", "--derived").out
    assert 'f_divergence_loss(logits, target, generator="kl"), the reverse\'s' in out
    assert "nowhere finite" in out


@pytest.mark.parametrize("name", ["triangular", "gini"])
def test_a_picture(lossmith, tmp_path, name):
    path = tmp_path / f"{name}.svg"
    assert lossmith("show", name, "--derived", "--plot", path).status == 0
    assert path.read_text().lstrip().startswith("<?xml")


def test_a_picture_of_an_unknown_kind(refused, tmp_path):
    assert "--plot writes .png, .svg, .pdf; got 'kl.txt'" in refused("show", "kl", "--derived", "--plot", tmp_path / "kl.txt")


def test_an_unknown_name(refused):
    assert refused("show", "kll", "--derived") == "lossmith show: no generator or entropy is called 'kll'; did you mean 'kl'?"
    assert refused("show", "shanon", "--derived").endswith("called 'shanon'; did you mean 'shannon'?")
    assert refused("show", "tsallis", "--derived").endswith("called 'tsallis'; did you mean 'tsallis(alpha=...)'?")


@pytest.mark.parametrize("option", [[], ["--derived"]], ids=["", "derived"])
def test_parameters_out_of_range(refused, option):
    assert refused("show", "skew_kl(skew=7)", *option).startswith("lossmith show: skew_kl: skew must be in")
    assert refused("show", "tsallis(alpha=-1)", *option).startswith("lossmith show: tsallis: alpha must be in")


def test_an_objective_names_the_functions_that_it_is_derived_from(refused):
    assert "cross_entropy is an objective, and no convex function; it is D_f(e_y || p) with f = kl; " in refused(
        "show", "cross_entropy", "--derived"
    )
    assert refused("show", "gce:q=1", "--derived").endswith("it is D_f(e_y || p) with f = total_variation")
    assert refused("show", "focal_loss", "--derived") == "lossmith show: focal_loss is an objective, and no convex function"


@pytest.mark.parametrize(
    "sheet", [*map(of_generator.sheet, GENERATORS.values()), *map(of_entropy.sheet, ENTROPIES.values())], ids=lambda s: s.name
)
def test_every_formula_is_one_that_a_picture_can_show(sheet):
    from matplotlib.mathtext import MathTextParser

    MathTextParser("path").parse(f"${derived.mathtext(sheet.formula)}$")
    assert all(len(values) == len(one.xs) for one in sheet.derived for values in one.curves.values())


def test_what_towers_is_left_out_and_the_rest_keeps_its_shape():
    seen = derived.visible([*map(float, range(60)), 1e9, math.inf, math.nan])
    assert seen[:60] == list(map(float, range(60)))
    assert all(map(math.isnan, seen[60:]))
    assert derived.line([0.0, 1.0]) == "▁" * 20 + "█" * 20
    assert derived.line([math.nan] * 5) == " " * derived.WIDTH
