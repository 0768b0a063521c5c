"""The pictures of the guide, drawn from the library itself before Sphinx reads the pages, so that none can go stale."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import torch
from matplotlib import pyplot

from lossmith import generators
from lossmith.cli import derived, of_generator

STYLE = {"svg.hashsalt": "lossmith", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = ("#2456a6", "#b3541e", "#2f7d4f", "#7a4fa3", "#8c6d1f", "#4d4d4d")


def draw(folder: Path) -> None:
    """Every picture, each only if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        path = folder / f"{name}.svg"
        if not path.exists():
            with matplotlib.rc_context(STYLE):
                picture(path)


def _save(figure: pyplot.Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _derived(path: Path) -> None:
    derived.picture(of_generator.sheet(generators.kl), path)


def _links(path: Path) -> None:
    """The preference links and the weights of a score, of several generators."""
    names = ("kl", "reverse_kl", "jensen_shannon", "squared_hellinger", "pearson_chi2", "jeffreys")
    r = torch.linspace(-3, 3, 241, dtype=torch.float64)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, colour in zip(names, COLOURS, strict=True):
        g = generators.get(name).centred()
        left.plot(r, generators.preference_link(r, g), label=name, color=colour, linewidth=2)
        right.plot(r, generators.score_weight(r, g), label=name, color=colour, linewidth=2)
    left.set(title="preference link $f'(e^r)$, centred", xlabel="log policy / reference", ylim=(-5, 5))
    right.set(title="weight of a score $e^{2r} f''(e^r)$", xlabel="log teacher / student", ylim=(0, 5))
    left.legend(frameon=False)
    _save(figure, path)


def _argmaxes(path: Path) -> None:
    """Regularised argmax and Fenchel-Young loss of two classes, against the difference of the logits."""
    entropies = {
        "shannon (softmax)": generators.shannon,
        "tsallis 1.5 (1.5-entmax)": generators.tsallis(1.5),
        "gini (sparsemax)": generators.gini,
        "norm 4": generators.norm_entropy(4.0),
    }
    margin = torch.linspace(-4, 4, 241, dtype=torch.float64)
    logits, label = torch.stack([margin, torch.zeros_like(margin)], -1), torch.tensor([1.0, 0.0], dtype=torch.float64)
    share = torch.linspace(0.001, 0.999, 241, dtype=torch.float64)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for (name, entropy), colour in zip(entropies.items(), COLOURS, strict=False):
        left.plot(share, entropy.bayes_risk(torch.stack([share, 1 - share], -1)), label=name, color=colour, linewidth=2)
        middle.plot(margin, entropy.argmax(logits)[:, 0], color=colour, linewidth=2)
        right.plot(margin, entropy.fenchel_young(logits, label), color=colour, linewidth=2)
    left.set(title="entropy $-\\Omega(p, 1 - p)$", xlabel="p")
    middle.set(title="regularised argmax", xlabel="$z_1 - z_2$")
    right.set(title="Fenchel-Young loss of class 1", xlabel="$z_1 - z_2$")
    left.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _tangent(path: Path) -> None:
    """A proper loss is read off the tangent to the negative entropy: Savage's picture, for two classes."""
    share = torch.linspace(0, 1, 241, dtype=torch.float64)
    figure, places = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axes, (name, entropy) in zip(places, (("shannon", generators.shannon), ("gini", generators.gini)), strict=True):
        axes.plot(share, entropy.bayes_risk(torch.stack([share, 1 - share], -1)), color=COLOURS[0], linewidth=2, label="Bayes risk")
        for report, colour in ((0.2, COLOURS[1]), (0.6, COLOURS[2])):
            loss = entropy.proper_loss(torch.tensor([report, 1 - report], dtype=torch.float64))
            axes.plot([0, 1], [loss[1], loss[0]], color=colour, linewidth=1.5, label=f"risk of reporting {report}")
            axes.plot([report], [entropy.bayes_risk(torch.tensor([report, 1 - report], dtype=torch.float64))], "o", color=colour)
        axes.set(title=name, xlabel="true probability of class 1", ylim=(0, 1.7))
    places[0].legend(frameon=False)
    _save(figure, path)


PICTURES = {"derived": _derived, "links": _links, "argmaxes": _argmaxes, "tangent": _tangent}
