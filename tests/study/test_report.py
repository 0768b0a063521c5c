"""The page: the summary first, nothing from outside, nothing unescaped, the same bytes for the same study."""

import base64
import hashlib
import html
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lossmith.study import Curves, Noise, StudyError, protocol
from lossmith.study.report import beside, design, methods, plots
from lossmith.study.report.command import command
from lossmith.study.report.page import render, write_report
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS

from .made_up import around, result

EVIL = "<script>alert(1)</script>"


def page(**facts) -> str:
    return render(Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, **facts)))


class Tags(HTMLParser):
    """Every tag and attribute of a page, and whether the tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "wbr", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_summary_comes_before_everything_else():
    text = page(noise=Noise("symmetric", 0.4))
    order = [
        "<h1>", "up beats ce", "The comparison that was declared", "<svg", "What this does not show", "What was run", "For a paper",
        "All metrics",
    ]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_page_needs_nothing_from_outside():
    text = page()
    tags = Tags(text)
    assert tags.open == []
    assert not {"link", "img", "iframe", "object"} & set(tags.tags)
    assert tags.tags.count("script") == 1
    assert not [value for name, value in tags.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"@import|url\(|https?://", text)


def test_the_page_may_run_its_own_script_and_nothing_else():
    text = page()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src &#39;sha256-{digest}&#39;" in policy or f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_page_adapts():
    text = page()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media (max-width: 720px)" in text


def test_names_from_data_are_escaped():
    data = {"name": f"{EVIL}.csv", "classes": [EVIL, "b"], "notes": [f"{EVIL}: left out, it is constant"], "inputs": EVIL}
    made = result({EVIL: around(0.8), f"up{EVIL}": around(0.9, seed=1)}, data=data, edge=[EVIL])
    made.spec.__dict__["target"] = EVIL
    text = render(Summary(made))
    assert Tags(text).tags.count("script") == 1
    assert text.count("&lt;script&gt;") > 10


def test_the_same_study_is_the_same_page():
    assert page() == page()


def test_every_metric_is_there_and_only_one_column_is_marked_as_declared():
    text = page(stop="best")
    for metric in METRICS.values():
        assert f"{metric.title} {'↑' if metric.higher_is_better else '↓'}</th>" in text
    assert text.count(' class="declared">') == 2


def test_scaled_probabilities_are_labelled():
    text = page(scaled=["up"])
    assert "after temperature scaling on validation" in text
    assert text.count(" T<small>") == 2 * 4
    assert " T<small>" not in page()


def test_an_edge_of_the_grid_is_marked():
    assert "10 of 10 seeds at the edge" in page(edge=["up"])
    assert "at the edge</span>" not in page()


def test_one_objective_has_no_differences():
    text = render(Summary(result({"ce": around(0.8)})))
    assert "Paired differences" not in text


def test_a_failed_comparison_and_a_single_seed_render():
    text = render(Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, diverged={"up": [0, 1]})))
    assert "2 seeds without a result" in text
    shown = re.sub(r"<(style|script|pre).*?</\1>", "", text, flags=re.S)
    assert "inf" not in re.sub(r"[Ii]n(formation|ference)", "", shown)
    assert "nan" not in re.sub(r"<[^>]*>", "", shown).lower()
    assert "no interval" in render(Summary(result({"ce": [0.8], "up": [0.9]})))


def test_the_chances_are_shown_where_a_difference_that_matters_is_known():
    assert "worse by more than 1 point" in page()
    assert "> 99" in page() or "&gt; 99" in page()
    assert "How likely a difference that matters" not in render(Summary(result({"ce": [0.8], "up": [0.9]})))


def test_of_what_is_tied_no_chance_is_known():
    """Equal on every seed is no spread to estimate from: 100 % would be certainty from a handful of test sets."""
    base = around(0.8)
    made = Summary(result({"ce": base, "same": base, "up": around(0.9, seed=1)}))
    assert set(made.chances()) == {"up"}
    assert "Objectives that are tied with the baseline, or have failed trials, are left out." in render(made)
    assert "How likely a difference" not in render(Summary(result({"ce": base, "same": base})))
    assert "tied with the baseline, or" not in render(Summary(result({"ce": base, "up": around(0.9, seed=1)})))


def test_what_never_differs_is_no_interval():
    base = around(0.8)
    shown = render(Summary(result({"ce": base, "same": base}, best={"ce": base, "same": base})))
    assert "±0.0" not in shown
    assert "0<small>every time</small>" in shown
    assert "At the epoch that validation found best there is no difference on any seed." in shown


def test_options_in_warnings_are_not_broken():
    evil = "focal --seeds-up <b>"
    shown = page(data={"warnings": [f"widen --learning-rates, or {evil}"]})
    assert 'widen <span class="option">--learning-rates</span>, or focal <span class="option">--seeds-up</span> &lt;b&gt;' in shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((-7.0, -43.61, 29.6), ["-7.0", "-43.6", "+29.6"]),
        ((0.0123, -0.001, 0.5), ["+0.012", "-0.001", "+0.500"]),
        ((1234.0, -5.0, 2000.0), ["+1234", "-5", "+2000"]),
        ((0.0, 0.0, 0.0), ["+0", "+0", "+0"]),
    ],
)
def test_numbers_side_by_side_have_as_many_digits(values, shown):
    assert beside._alike(*values) == shown


def test_what_was_ended_early_has_its_verdict():
    made = result({"ce": around(0.8), "none": around(0.78, seed=1), "up": around(0.9, seed=2)})
    text = render(Summary(made, stopped={"none": 5}))
    assert '<span class="pill neutral">hopeless</span>' in text
    assert "none was ended after 5 seeds" in text


def test_the_file_is_written_whole_or_not_at_all(tmp_path):
    summary = Summary(result({"ce": around(0.8)}))
    path = write_report(summary, tmp_path / "new" / "folder")
    assert path.read_text(encoding="utf-8") == render(summary)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        write_report(summary, tmp_path / "file")


def test_the_command_runs_the_study_again():
    made = result(
        {"cross_entropy": [0.8, 0.7], "generalized_cross_entropy": [0.8, 0.7]}, noise=Noise("symmetric", 0.4), data={}, seeds=(3, 5)
    )
    assert command(made.spec) == (
        "lossmith compare --data wine --objectives cross_entropy,generalized_cross_entropy --noise symmetric:0.4 --epochs 3 "
        "--learning-rates 0.01,0.1,1 --seeds 3,5"
    )


def test_the_command_leaves_out_nothing_that_changes_the_answer():
    made = result({"ce": around(0.8), "up": around(0.9, seed=1)}, noise=Noise("symmetric", 0.12345678), imbalance=0.1234567, labels=3)
    said = command(made.spec, target="ill", test="signed_rank", claim="alike") or ""
    for option in ("--noise symmetric:0.12345678", "--imbalance 0.1234567", "--labels-per-class 3", "--target ill"):
        assert f"{option} " in said
    assert "--test signed_rank --claim alike" in said
    assert "--test signed_rank" in html.unescape(render(Summary(made, "signed_rank")))


def test_rows_taken_away_are_said_in_the_title_the_protocol_and_the_paragraph():
    made = Summary(result({"ce": around(0.8), "up": around(0.9, seed=1)}, imbalance=0.5, labels=3))
    assert protocol.setting(made.spec, "wine") == "wine with classes thinned 2 : 1 and 3 training rows a class"
    assert dict(design.protocol(made))["class sizes"].endswith("; at most 3 training rows of each class kept, the others left out")
    assert "At most 3 training rows of each class kept" in methods.paragraph(made)
    assert "Training classes thinned, the smallest to 0.5" in methods.paragraph(made)


@pytest.mark.parametrize(("low", "high", "ticks"), [(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)), (-0.12, 0.31, (-0.1, 0.0, 0.1, 0.2, 0.3))])
def test_ticks_are_round_numbers_inside(low, high, ticks):
    assert plots.Scale.over([low, high], within=(low, high)).ticks == pytest.approx(ticks)


def test_a_scale_of_one_value_or_none_has_room():
    for values in ([0.5], [], [math.nan, math.inf]):
        scale = plots.Scale.over(values)
        assert scale.low < scale.high
        assert scale.ticks


def test_tick_labels_tell_ticks_apart():
    accuracy = METRICS["accuracy"]
    assert plots.tick_labels(plots.Scale(0.9, 0.91, (0.9, 0.9025, 0.905)), accuracy) == ["90.00", "90.25", "90.50"]
    assert plots.tick_labels(plots.Scale(-1, 1, (-0.1, 0.0, 0.1)), accuracy, signed=True) == ["−10", "0", "+10"]


def test_the_mean_over_seeds_leaves_out_what_is_missing():
    mean = plots.mean_over_seeds(np.array([[1.0, math.nan, math.nan], [3.0, 5.0, math.nan]]))
    assert mean[:2].tolist() == [2.0, 5.0]
    assert math.isnan(mean[2])


def test_curves_of_a_diverged_run_are_broken_not_wrong():
    broken = np.array([[0.1, 0.5, math.nan, math.nan]])
    curves = Curves(np.arange(4), broken, broken, broken)
    drawn = plots.learning_curves("x", curves, None, [1], METRICS["accuracy"], plots.Scale.over([0, 1]))
    assert "nan" not in drawn
    (path,) = re.findall(r'<path class="test" d="([^"]*)"', drawn)
    assert path.count("M") == 1
    assert path.count("L") == 1


def test_a_point_of_the_reliability_diagram_lies_where_it_should():
    drawn = plots.reliability("x", [{"confidence": 0.5, "accuracy": 1.0, "count": 4.0}])
    (x, y) = re.findall(r'<circle class="bin" cx="([\d.]+)" cy="([\d.]+)"', drawn)[0]
    assert float(x) == pytest.approx((plots.LEFT + 260 - plots.RIGHT) / 2)
    assert float(y) == pytest.approx(plots.TOP)
