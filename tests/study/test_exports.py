"""A study as files for other programs: tables that hold every trial, LaTeX that compiles, and text that does no harm."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lossmith.study import StudySpec, run
from lossmith.study.grid import GridSummary
from lossmith.study.report import exports, latex, methods, works
from lossmith.study.summary import Summary
from lossmith.study.training.metrics import METRICS

from .made_up import around, result, several

EVIL = r"=cmd|'/c calc'!A1 \input{x} 100% & $a_b^2$ #1 ~ <b> {"


@pytest.fixture(scope="module")
def finished():
    spec = StudySpec(data="wine", objectives=["ce", "gce:q=0.7"], model="linear", seeds=2, epochs=2, learning_rates=[0.01, 0.1])
    return Summary(run(spec, jobs=1))


def test_every_trial_is_a_row_at_both_stops(finished):
    table = exports.trials([finished])
    assert len(table) == 2 * 2 * 2 * 2
    chosen = table[table.chosen & (table.stop == "last")]
    for label, place in (("cross_entropy", 0), ("generalized_cross_entropy:q=0.7", 1)):
        mine = chosen[chosen.objective == label].sort_values("seed")
        np.testing.assert_array_equal(mine.test_accuracy, finished.result.values()[place])


@pytest.mark.parametrize("how", [{}, {"tune_once": True}, {"holdout": "thresholdout"}], ids=str)
def test_what_was_tuned_is_in_the_table(how):
    spec = StudySpec(data="digits", objectives="ce,gce", model="linear", seeds=2, epochs=1, configurations=3, **how)
    one = Summary(run(spec, jobs=1))
    table = exports.trials([one])
    assert len(table) == 2 * len(one.result.trials)
    assert set(table[table.tested].seed) == {0, 1}
    assert set(table[~table.tested].seed) == set(spec.tuning_draws)
    assert table[~table.tested].test_accuracy.isna().all()
    assert table.validation_accuracy.notna().all()
    for outcome in one.result.outcomes:
        mine = table[(table.objective == outcome.objective) & (table.seed == outcome.seed) & (table.stop == outcome.stop) & table.chosen]
        (row,) = mine.itertuples()
        assert (row.learning_rate, row.weight_decay) == (outcome.learning_rate, outcome.weight_decay)
        assert row.hyper == ",".join(f"{name}={value}" for name, value in outcome.hyper)
        assert row.validation_accuracy == outcome.validation
    said = methods.paragraph(one)
    assert "3 of learning rate, weight decay" in said
    assert "scrambled Halton sequence" in said
    assert ("3 further seeds that were not tested" in said) == ("tune_once" in how)
    assert ("Thresholdout" in said) == ("holdout" in how)


def test_the_summary_has_every_metric_and_judges_the_declared_one(finished):
    table = exports.summary([finished])
    assert len(table) == 2 * 2 * len(METRICS)
    line = finished.lines()[1]
    row = table[table.declared & (table.objective == line.objective)].iloc[0]
    assert (row["mean"], row.difference) == pytest.approx((line.estimate.mean, line.comparison.mean_difference))
    assert row.verdict == line.comparison.verdict
    assert table[~table.declared].p_adjusted.isna().all()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_read_back(finished, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet is written by pyarrow")
    paths = exports.write_tables(finished, tmp_path, kind)
    assert [path.name for path in paths] == [f"trials.{kind}", f"summary.{kind}"]
    read = pd.read_csv(paths[0]) if kind == "csv" else pd.read_parquet(paths[0])
    written = exports.trials([finished])
    assert list(read.columns) == list(written.columns)
    np.testing.assert_allclose(read.test_log_loss.astype(float), written.test_log_loss.astype(float), rtol=1e-12)


def test_several_studies_have_their_claims(tmp_path):
    found = GridSummary(several(["wine", "digits"]), "these")
    names = [path.name for path in exports.write_tables(found, tmp_path, "csv")]
    assert names == ["trials.csv", "summary.csv", "claims.csv"]
    table = exports.claims(found)
    assert len(table) == 8 + 4 + 4
    assert table[table.declared].verdict.tolist() == ["better", "no difference shown"] * 2
    assert set(table[~table.declared].verdict) == {"not tested"}
    assert table[~table.declared].p.isna().all()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_csv_is_a_formula(tmp_path, start):
    evil = f"{start}1+1"
    made = Summary(result({evil: around(0.8), "up": around(0.9, seed=1)}, data={"name": evil}))
    path = exports.write_tables(made, tmp_path, "csv")[1]
    table = pd.read_csv(path, keep_default_na=False)
    assert table.objective[0] == "'" + evil.replace("\r", " ")
    assert b"\r" not in path.read_bytes()
    texts = table.map(
        lambda cell: isinstance(cell, str) and not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell) and cell.startswith(exports.FORMULA)
    )
    assert not texts.to_numpy().any()
    assert table["difference"].astype(str).tolist()[1].lstrip("-")[0].isdigit()  # numbers stay numbers


def parsed(text: str) -> tuple[int, list[list[str]]]:
    """How many columns the tabular declares, and its rows as cells: by a scanner of LaTeX's own rules for what is special."""
    depth, environments, rows, cells, cell, place, columns, math = 0, [], [], [], "", 0, 0, False
    lines = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines())
    while place < len(lines):
        letter = lines[place]
        if letter == "\\":
            (command,) = re.match(r"\\([a-zA-Z]+|.)", lines[place:], flags=re.S).groups()
            place += 1 + len(command)
            if command in ("begin", "end"):
                (name,) = re.match(r"\{(\w+)\}", lines[place:]).groups()
                place += len(name) + 2
                if command == "begin":
                    environments.append(name)
                    if name == "tabular":
                        (spec,) = re.match(r"\{(\w+)\}", lines[place:]).groups()
                        columns, place, cell = len(spec), place + len(spec) + 2, ""
                else:
                    assert environments.pop() == name
            elif command == "\\":
                assert depth == 0
                rows.append([*cells, cell])
                cells, cell = [], ""
            elif command not in ("toprule", "midrule", "bottomrule", "centering", "caption", "label"):
                cell += {"textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">",
                         "textbar": "|", "pm": "±"}.get(command, command)  # fmt: skip
            continue
        if letter in "{}":
            depth += 1 if letter == "{" else -1
            assert depth >= 0
        elif letter == "$":
            math = not math
        elif letter == "&":
            cells.append(cell)
            cell = ""
        else:
            assert letter not in '#^_~<>|"' or math, (letter, lines[max(0, place - 30) : place])
            cell += letter
        place += 1
    assert depth == 0
    assert not environments
    assert not math
    return columns, [[one.strip() for one in row] for row in rows]


def test_the_latex_table_is_well_formed_and_says_the_numbers():
    made = Summary(result({"ce": around(0.8), "down_1": around(0.7, seed=1)}))
    columns, rows = parsed(latex.of_study(made))
    assert columns == 5
    assert {len(row) for row in rows} == {5}
    assert rows[2][0] == "down_1"
    assert rows[2][2].startswith("-10.0 [-")
    assert rows[2][3:] == ["textless 0.001".replace("textless", "<"), "worse"]


def test_hostile_names_do_no_harm_in_latex():
    made = Summary(result({EVIL: around(0.8), f"up {EVIL}": around(0.9, seed=1)}, data={"name": EVIL}))
    columns, rows = parsed(latex.of_study(made))
    assert {len(row) for row in rows} == {columns}
    assert rows[1][0].replace("{}", "") == " ".join(EVIL.split())
    columns, rows = parsed(latex.of_grid(GridSummary(several(["wine", EVIL]), "each")))
    assert {len(row) for row in rows} == {columns}
    assert len(rows) == 1 + 8


def test_a_table_and_its_sources_are_written(tmp_path):
    paths = latex.write_latex(GridSummary(several(["wine", "digits"]), "alike"), tmp_path)
    assert [path.name for path in paths] == ["table.tex", "references.bib"]
    sources = paths[1].read_text()
    assert sources.count("{") == sources.count("}")
    for key in ("lossmith", "paszke2019", "pedregosa2011", "holm1979", "demsar2006"):
        assert re.search(rf"^@\w+\{{{key},$", sources, flags=re.M)


def test_the_methods_say_what_was_done(finished):
    said = methods.paragraph(finished)
    for part in (
        "We compared generalized_cross_entropy:q=0.7 with cross_entropy on wine (178 rows, 13 features, 3 classes).",
        "trained for 2 epochs with AdamW (weight decay 0.01) in batches of 128",
        "the learning rate (0.01, 0.1) with the highest validation accuracy was taken",
        "Differences in accuracy at the last epoch were declared beforehand and tested at 0.05: paired t-test corrected",
    ):
        assert part in said
    assert re.search(r"We used lossmith [\d.]+, PyTorch [\w.+]+, Python [\d.]+\.$", said)


def keys(found):
    """The keys of the entries, in their order."""
    return re.findall(r"^@\w+\{(\w+),", methods.bibtex(found), flags=re.M)


def test_the_sources_are_those_of_the_objectives(finished):
    assert "1805.07836" in methods.bibtex(finished)
    assert "demsar2006" not in keys(finished)
    assert len(set(keys(finished))) == len(keys(finished))


def test_the_methods_of_several_studies_name_the_claim_and_its_test():
    studies = several(["wine", "digits"])
    for claim, test, key in (
        ("these", "a t-test of the mean over data sets of the mean paired differences", "nadeau2003"),
        ("alike", "an exact signed-rank test of the mean paired differences over data sets", "wilcoxon1945"),
        ("each", "paired t-test corrected for overlapping training sets", "nadeau2003"),
    ):
        found = GridSummary(studies, claim)
        said = methods.paragraph(found)
        assert methods.CLAIMED[claim] in said
        assert test in said
        assert key in keys(found)
        assert ("nadeau2003" in keys(found)) == (claim != "alike")
        assert "demsar2006" in keys(found)
    assert "demsar2006" not in keys(GridSummary(several(["wine"])))  # one data set under two kinds of noise has no ranks


def test_only_what_was_used_is_cited():
    known = {re.search(r"\{(\w+),", entry)[1] for entry in works.WORKS.values()}

    def of(values=None, test="corrected_t", scaled=(), **spec):
        made = result(values or {"ce": around(0.8), "up": around(0.9, seed=1)}, scaled=scaled, **spec)
        return {key for key in keys(Summary(made, test)) if key in known}

    always = {"paszke2019", "pedregosa2011", "loshchilov2019"}
    compared = always | {"nadeau2003", "holm1979", "corani2015"}
    assert of() == compared
    assert of({"ce": around(0.8)}) == always  # nothing was compared, and so nothing adjusted
    assert of(test="signed_rank") == compared - {"nadeau2003"} | {"wilcoxon1945"}
    assert of(test="anytime_t") == compared - {"nadeau2003"} | {"wang2024"}
    assert of(folds=5) == compared | {"bouckaert2004"}
    assert of(metric="log_loss", scaled=("up",)) == compared - {"corani2015"} | {"guo2017"}
    assert of(model="lightgbm") == compared - {"loshchilov2019"} | {"ke2017"}
    probes = ("fgsm:0.1", "pgd:0.1", "collapse", "margins", "contrast", "brightness", "ood")
    probed = {"goodfellow2015", "madry2018", "papyan2020", "hendrycks2017", "liu2020", "hendrycks2019"}
    assert of(probes=probes) == compared | probed
    said = methods.paragraph(Summary(result({"ce": around(0.8)}, probes=probes)))
    assert "Beside the metrics we looked at accuracy under the fast gradient sign method (Goodfellow et al. 2015), " in said
    assert said.count("corruptions at five severities") == 1


@pytest.mark.parametrize(
    ("tuner", "cited"),
    [("quasi_random", {"halton1960", "owen2017"}), ("optuna", {"akiba2019", "bergstra2011"}), ("grid", set())],
)
def test_the_tuner_is_cited(tuner, cited):
    made = result({"ce": around(0.8), "up": around(0.9, seed=1)})
    spec = replace(made.spec, tuner=tuner, learning_rates=(0.01, 0.1) if tuner == "grid" else None)
    tuners = {"halton1960", "owen2017", "akiba2019", "bergstra2011"}
    assert tuners & set(keys(Summary(replace(made, spec=spec)))) == cited
    held = replace(spec, holdout="thresholdout")
    assert ("dwork2015" in keys(Summary(replace(made, spec=held)))) == ("dwork2015" not in keys(Summary(replace(made, spec=spec))))
