"""The page as a browser shows it: it renders without a complaint, sorts, tells its values, changes colours, and passes axe."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from lossmith.study import Noise
from lossmith.study.grid import GridSummary
from lossmith.study.report.page import write_report
from lossmith.study.report.suspected import Check, Suspects
from lossmith.study.summary import Summary

from .made_up import around, result, several

playwright = pytest.importorskip("playwright.sync_api", reason="the page is looked at with playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="accessibility is checked with axe")

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"the page is looked at with {CHROMIUM}"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the driver's own event loop
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.subprocess,
]

SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
EVIL = "<script>document.title='owned'</script>\"'><img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests here."""
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(SWITCHES))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages():
    """Paths of a study's page, of one whose names are hostile, and of several studies' page."""
    values = {"ce": around(0.8), "up": around(0.9, seed=1), "down": around(0.7, seed=2), "near": around(0.801, 0.05, seed=3)}
    hostile = {EVIL: around(0.8), f"up{EVIL}": around(0.9, seed=1)}
    data = {"name": f"{EVIL}.csv", "classes": [EVIL, "b"], "notes": [f"{EVIL}: left out"], "inputs": EVIL, "warnings": [EVIL]}
    made = {
        "one": Summary(result(values, noise=Noise("symmetric", 0.4))),
        "hostile": Summary(result(hostile, data=data)),
        "several": GridSummary(several(["wine", EVIL]), "these"),
    }
    suspects = {"one": _suspects("no"), "hostile": _suspects(EVIL)}
    with tempfile.TemporaryDirectory() as folder:
        yield {name: write_report(summary, Path(folder) / name, suspects.get(name)) for name, summary in made.items()}


def _suspects(label: str) -> Suspects:
    """Labels that look wrong, of two rows."""
    return Suspects(
        objective="ce", rows=np.array([9, 1]), given=(label, "yes"), likely=("yes", label), probability=np.array([0.01, 0.2]),
        noise_rate=0.1,
        probabilities=np.full((20, 2), 0.5), labels=np.zeros(20, dtype=np.int64), class_names=(label, "yes"), right=("yes", None),
        check=Check(label, 15, 2, 1, 1),
    )  # fmt: skip


@pytest.fixture
def opened(browser, pages):
    """Open a page, at a size and in a colour scheme; whatever it asks of the network or complains of fails the test."""
    contexts, complaints = [], []

    def open_page(name: str, size: dict = DESKTOP, scheme: str = "light", **options):
        context = browser.new_context(viewport=size, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith("file://") else None)
        page.on("request", lambda request: complaints.append(request.url) if request.url != pages[name].as_uri() else None)
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


LOOKS = {
    "phone-light": ("several", PHONE, "light"),
    "phone-dark": ("one", PHONE, "dark"),
    "desktop-light": ("one", DESKTOP, "light"),
    "desktop-dark": ("several", DESKTOP, "dark"),
    "hostile": ("hostile", PHONE, "light"),
}


@pytest.mark.parametrize(("name", "size", "scheme"), LOOKS.values(), ids=LOOKS)
def test_axe_finds_nothing_and_nothing_is_cut_off(opened, name, size, scheme):
    page = opened(name, size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one, place) => { one.open = place < 3; })")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_nothing_hostile_runs(opened):
    for name in ("hostile", "several"):
        page = opened(name)
        assert page.title() != "owned"
        assert page.locator("script").count() == 1
        assert page.locator("img").count() == 0
        assert EVIL in page.locator("body").inner_text()


def column(page, table, place):
    return [cell.strip() for cell in page.locator(table).first.locator(f"tbody tr > :nth-child({place})").all_inner_texts()]


def test_tables_sort_by_click_and_by_keyboard(opened):
    page = opened("one")
    table = "table.sorts"
    assert column(page, table, 1) == ["ce", "up", "down", "near"]
    heading = page.locator(f"{table} >> nth=0 >> thead th >> nth=2")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, table, 1) == ["down", "near", "up", "ce"]  # the baseline has no difference, and comes last
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, table, 1) == ["up", "near", "down", "ce"]
    page.locator(f"{table} >> nth=0 >> thead th >> nth=0 >> button").click()
    assert heading.get_attribute("aria-sort") is None
    assert column(page, table, 1) == ["ce", "down", "near", "up"]


def test_colours_change_and_stay_changed(opened):
    page = opened("one", scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.get_by_role("button", name="Dark colours")
    button.click()
    assert page.evaluate(paper) != light
    page.reload()
    assert page.evaluate(paper) != light
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate(paper) == light


def told(page) -> str:
    """What the label beside a mark says."""
    return page.locator("#tip").inner_text().replace("\u00a0", " ")


def test_marks_tell_their_values_to_the_pointer_and_to_the_keyboard(opened):
    page = opened("one")
    page.locator("svg.dots circle.mean").nth(2).hover()
    assert told(page).startswith("up at the last epoch: 90.0 % [")
    chart = page.locator("svg.chart.tips").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert told(page).startswith("epoch 0: test 0.0 %")
    page.keyboard.press("ArrowRight")
    assert told(page).startswith("epoch 1: test ")
    page.mouse.move(0, 0)  # leaves the mark of the other chart, and takes nothing from this one
    assert told(page).startswith("epoch 1: test ")
    page.keyboard.press("Escape")
    assert told(page) == ""


def test_what_is_to_be_used_elsewhere_is_copied(opened):
    page = opened("one", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the command").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("lossmith compare --data wine --objectives ce,up,down,near --noise symmetric:0.4")


def test_a_link_opens_its_study(opened):
    page = opened("several")
    study = page.locator("#study-2")
    assert study.get_attribute("open") is None
    page.locator("a[href='#study-2']").click()
    study.locator("table").first.wait_for(state="visible")


def test_without_a_script_everything_can_be_read(opened):
    page = opened("one", java_script_enabled=False)
    assert page.locator("button").count() == 0
    assert page.locator("svg.dots title").count() > 10
    assert "up beats ce" in page.locator("main").inner_text()
