"""A report in a real Chromium: every figure drawn, nothing fetched, tables and legends at work."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analysis import write_report
from tests.analysis.conftest import SweepBuilder, filled
from tests.analysis.generated import write_trials

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_DRAWN = "[...document.querySelectorAll('.figure')].every(f => f.querySelector('.main-svg'))"


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page and everything it complained of or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def _until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for it here: the page's policy forbids Playwright to poll in the page."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come true within ten seconds")


def _bright(page: Page) -> bool:
    ink = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
    return sum(int(part) for part in ink[4:-1].split(",")) > 384


def _open(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    opened = Opened(page)
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    for figure in page.locator(".figure").all():
        figure.scroll_into_view_if_needed()
    _until(page, lambda: bool(page.evaluate(_DRAWN)))
    return opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = filled(SweepBuilder(tmp_path_factory.mktemp("storage")))
    return write_report(builder.storage, "quickstart").page


@pytest.fixture(scope="module")
def desktop(browser: Browser, report: Path) -> Opened:
    return _open(browser, report)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_every_figure_is_drawn_without_a_fetch(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    opened = _open(browser, report, width, scheme)
    assert opened.page.locator(".figure").count() >= 8
    assert opened.complaints == []
    assert opened.requests == [report.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert _bright(opened.page) == (scheme == "dark")
    opened.page.context.close()


def test_figures_follow_the_page_from_light_to_dark(desktop: Opened) -> None:
    assert not _bright(desktop.page)
    desktop.page.emulate_media(color_scheme="dark")
    _until(desktop.page, lambda: _bright(desktop.page))
    desktop.page.emulate_media(color_scheme="light")
    _until(desktop.page, lambda: not _bright(desktop.page))
    assert desktop.complaints == []


def test_a_click_sorts_a_table_and_another_turns_it(desktop: Opened) -> None:
    table = desktop.page.get_by_role("region", name="Trials", exact=True)

    def column(place: int) -> list[str]:
        return table.locator(f"tbody td:nth-child({place})").all_text_contents()

    names = table.locator("th").all_text_contents()
    score = names.index("score") + 1
    button = table.get_by_role("button", name="score")
    button.click()
    rising = [cell for cell in column(score) if cell != "–"]
    assert [float(cell) for cell in rising] == sorted(float(cell) for cell in rising)
    assert column(score)[-3:] == ["–"] * 3
    button.click()
    assert column(score)[: len(rising)] == rising[::-1]
    assert column(score)[-3:] == ["–"] * 3
    assert table.locator("th[aria-sort=descending]").count() == 1
    table.get_by_role("button", name="σ").click()
    weights = [float(cell) for cell in column(names.index("σ") + 1)]
    assert weights == sorted(weights)


def test_averages_stay_below_what_is_sorted(builder: SweepBuilder, browser: Browser) -> None:
    tasks = ("maze2d-umaze-v1", "maze2d-large-v1", "hopper-medium-v2", "walker2d-medium-v2")
    for task, score in zip(tasks, (150.0, 90.0, 120.0, 60.0), strict=True):
        builder.row("ractd", [score], key=task, task=task, dataset=f"local/{task}")
    page = _open(browser, write_report(builder.storage, "quickstart").page).page
    table = page.get_by_role("region", name="Normalized scores", exact=False).first
    first = table.locator("tbody td:first-child")
    below = ["average of Gym-MuJoCo", "average of Maze2d", "average of all", "total of 4"]
    assert first.all_text_contents()[2] == below[0]
    table.get_by_role("button", name="ractd").click()
    rising = [f"local/{tasks[place]}" for place in (3, 1, 2, 0)]
    assert first.all_text_contents() == [*rising, *below]
    assert table.locator("tr.rule td:first-child").all_text_contents() == below[:1]
    table.get_by_role("button", name="ractd").click()
    assert first.all_text_contents() == [*rising[::-1], *below]


def test_a_legend_shows_and_hides(desktop: Opened) -> None:
    page = desktop.page
    figure = page.locator("figure", has=page.get_by_role("heading", name="Returns", exact=True))
    shown = "f => f.querySelector('.figure').data.filter(t => t.visible === true).length"
    before = figure.evaluate(shown)
    figure.locator(".legendtoggle").first.click()
    _until(page, lambda: bool(figure.evaluate(shown) == before - 1))


def test_what_a_record_says_neither_runs_nor_becomes_markup(
    builder: SweepBuilder, browser: Browser
) -> None:
    run = "document.title='owned'"
    hostile = f'</script><img src=x onerror="{run}"><script>{run}</script>'
    builder.trial(0, "failed", reason=hostile, curve=[1.0, 2.0], dataset=hostile)
    builder.trial(1, params={"student.times": hostile}, curve=[1.0], dataset=hostile)
    builder.trial(2, params={"student.times": "mixed"}, curve=[2.0], dataset=hostile)
    opened = _open(browser, write_report(builder.storage, "quickstart").page)
    assert opened.page.title() == "Sweep quickstart"
    assert opened.page.locator("img").count() == 0
    assert opened.complaints == []


def test_figures_become_pictures_in_dark_ink_on_white(
    builder: SweepBuilder, chromium: str, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    monkeypatch.setenv("BROWSER_PATH", chromium)
    builder.trial(0, curve=[1.0, 2.0])
    builder.row("ractd")
    folder = write_report(builder.storage, "quickstart", pictures="svg").folder / "figures"
    pictures = {path.name: path.read_text() for path in folder.iterdir()}
    (scores,) = (text for name, text in pictures.items() if "scores-and-their" in name)
    assert scores.startswith("<svg")
    assert 'width="640"' in scores
    assert "rgb(29, 33, 39)" in scores
    assert "rgb(255, 255, 255)" in scores
    assert "ractd" in scores
    page = browser.new_page()
    for path in folder.iterdir():
        page.goto(path.as_uri())
        assert page.locator("svg.main-svg").count() > 0, path
    page.close()


@pytest.mark.slow
@pytest.mark.failures
def test_two_thousand_trials_open(tmp_path: Path, browser: Browser) -> None:
    write_trials(tmp_path, 2000, episodes=2)
    opened = _open(browser, write_report(tmp_path, "large").page)
    assert opened.complaints == []
    assert opened.page.get_by_role("region", name="Trials").locator("tbody tr").count() == 2000
