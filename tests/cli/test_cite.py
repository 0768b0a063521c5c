"""BibTeX: what the source line says, nothing that it does not say, and the library itself."""

import re
from pathlib import Path

from lossmith import citation
from lossmith.citation import entry


def test_an_objective_and_the_library(lossmith):
    ran = lossmith("cite", "gce")
    assert ran.status == 0
    assert "author        = {Zhang and Sabuncu}" in ran.out
    assert "eprint        = {1805.07836}" in ran.out
    assert "title         =" not in ran.out.partition("@software")[0]
    assert "@software{lossmith," in ran.out


def test_the_library_alone(lossmith):
    assert lossmith("cite").out.startswith("@software{lossmith,")


def test_every_work_of_a_source_line_gets_an_entry(lossmith):
    ran = lossmith("cite", "sum_exponential")
    assert [line for line in ran.out.splitlines() if line.startswith("@misc")] == [
        "@misc{weston1998,",
        "@misc{awasthi2022,",
        "@misc{mao2023,",
    ]


def test_braces_balance(lossmith):
    out = lossmith("cite", "comp_sum").out
    assert out.count("{") == out.count("}")


def test_unknown_objective(refused):
    assert "did you mean 'gce'?" in refused("cite", "gcee")


def test_others_title_and_special_characters():
    built = entry("Müller & Öz et al. 2020, 'Loss & gain: 100% of x_i', doi:10.1000/xyz.123, section 2")
    assert built.startswith("@misc{muller2020,")
    assert "author = {Müller and Öz and others}" in built
    assert r"title  = {{Loss \& gain: 100\% of x\_i}}" in built
    assert "doi    = {10.1000/xyz.123}" in built


def test_an_apostrophe_is_no_quotation_mark():
    built = entry("O'Brien & D'Arcy 2020, 'V-Net', section 2")
    assert "author = {O'Brien and D'Arcy}" in built
    assert "title  = {{V-Net}}" in built


def test_a_source_without_author_or_year_is_only_a_note():
    assert entry("folklore") == "@misc{source,\n  note = {folklore},\n}"


def test_our_own_entry_says_what_the_citation_file_says():
    stated = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    own = citation.own()
    for field in ("title", "version", "license"):
        (value,) = re.findall(rf'^{field}: "?([^"\n]+)"?$', stated, flags=re.M)
        assert f"{{{value}}}" in own
    (author,) = re.findall(r"- name: (.+)", stated)
    assert f"{{{{{author}}}}}" in own
