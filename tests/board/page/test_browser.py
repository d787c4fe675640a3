"""The report in a real browser: sorting, filtering, keyboard, light and dark, phones, and no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.page_records import PAIRS, grid, page_record, synthetic

pytest.importorskip("plotly")
pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from kdbench.board.page.build import build
from kdbench.board.page.data import Results, slugs

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
SHOWN = "[...document.querySelectorAll('#board tbody:not([hidden]) tr[data-method]:not([hidden])')]"
METHODS = ["student", "kd", *(f"method_{number:02}" for number in range(58))]
EVIL = "<script>document.title = 'broken'</script>"
DESKTOP, PHONE = (1440, 900), (390, 844)

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="needs Chromium: apt-get install --no-install-recommends chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty methods, two pairs, three seeds, with gaps, and one method that tries to break out."""
    folder = tmp_path_factory.mktemp("browser") / "site"
    records = synthetic(METHODS)
    records += [page_record(EVIL, pair, seed, top1=72.0, reason=EVIL) for pair in PAIRS for seed in (0, 1, 2)]
    build(Results("synthetic", "nobody trained these", records, grid(METHODS)), folder, pictures=False)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Tab:
    """One page in the browser."""

    def __init__(self, browser: Any, page: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.browser = browser
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # what earlier pages left
        browser.get(page.as_uri())
        self.wait("return !document.querySelector('.plot') || document.querySelectorAll('.plot .main-svg').length > 0")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, script: str) -> Any:
        return WebDriverWait(self.browser, 30).until(lambda _: self.run(script))

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def shown(self) -> list[str]:
        """Methods of the leaderboard, from top to bottom."""
        return self.run(f"return {SHOWN}.map(row => row.dataset.method)")

    def column(self, key: str) -> list[str | None]:
        """Orders of a column's shown cells."""
        return self.run(
            "const head = document.querySelector(`#board th.${arguments[0]}`);"
            "const index = [...head.parentElement.children].indexOf(head);"
            f"return {SHOWN}.map(row => row.children[index].dataset.order ?? null)",
            key,
        )

    def sorting(self, key: str) -> str:
        return self.one(f"#board th.{key}").get_attribute("aria-sort")

    def problems(self) -> list[str]:
        return [
            entry["message"] for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]

    def requests(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture
def index(browser: Any, site: Path) -> Tab:
    return Tab(browser, site / "index.html")


def settled(tab: Tab) -> None:
    """Wait until all plots are drawn."""
    tab.wait("return [...document.querySelectorAll('.plot .area')].every(a => a.querySelector('.main-svg'))")


def test_the_board_is_sorted_by_rank_and_a_click_sorts_by_another_column(index: Tab) -> None:
    assert index.sorting("rank") == "ascending"
    assert len(index.shown()) == 61
    dividers = "[...document.querySelectorAll('#board tbody:not([hidden]) tr.divider:not([hidden])')]"
    assert index.run(f"return {dividers}.map(row => row.innerText.trim())") == ["one teacher", "no teacher"]
    index.one("#board th.score-ece button").click()
    assert (index.sorting("score-ece"), index.sorting("rank")) == ("ascending", "none")
    assert index.run(f"return {dividers}.length") == 0
    values = [float(value) for value in index.column("score-ece") if value is not None]
    assert values == sorted(values)
    index.one("#board th.score-ece button").click()
    values = [float(value) for value in index.column("score-ece") if value is not None]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("clicks", [1, 2])
def test_cells_without_a_number_are_last_whichever_way(index: Tab, clicks: int) -> None:
    for _ in range(clicks):
        index.one("#board th.vs_kd button").click()
    values = index.column("vs_kd")
    first = values.index(None)
    assert set(values[first:]) == {None}
    assert first == len(values) - 1  # kd itself: the page opens on the board that lacks nothing


def test_a_column_is_sorted_from_the_keyboard(index: Tab) -> None:
    button = index.one("#board th.score button")
    index.run("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert index.sorting("score") == "descending"
    button.send_keys(Keys.SPACE)
    assert index.sorting("score") == "ascending"
    values = [float(value) for value in index.column("score") if value is not None]
    assert values == sorted(values)


def test_the_first_tab_stop_skips_to_the_content_and_focus_is_seen(index: Tab) -> None:
    index.one("body").send_keys(Keys.TAB)
    assert index.run("return document.activeElement.className") == "skip"
    assert index.run("return document.activeElement.getBoundingClientRect().left") >= 0
    index.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert index.run("return location.hash") == "#main"
    button = index.one("#board th.score button")
    button.send_keys(Keys.TAB)
    assert index.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_filters_leave_only_what_fits_and_count_it(index: Tab) -> None:
    Select(index.one("#where")).select_by_value(slugs(PAIRS)[PAIRS[0]])
    index.one("#search").send_keys("method_1")
    assert {name[:8] for name in index.shown()} == {"method_1"}
    assert index.one("#count").text == "10 of 61 methods"
    Select(index.one("#family")).select_by_value("features")
    assert set(index.run(f"return {SHOWN}.map(row => row.dataset.family)")) == {"features"}
    index.one("#search").clear()
    Select(index.one("#family")).select_by_value("")
    index.one("#seeds").send_keys(Keys.ARROW_UP * 3)
    assert len(index.shown()) == 58  # three methods lack a run


def test_where_changes_the_board_and_its_plots(index: Tab) -> None:
    settled(index)
    front = "JSON.stringify(document.querySelector('[data-kind=pareto]').data.at(-1).y)"
    before = index.run(f"return {front}")
    key = slugs(PAIRS)[PAIRS[0]]  # it opens on the other, which lacks nothing
    Select(index.one("#where")).select_by_value(key)
    index.wait(f"return {front} !== {json.dumps(before)}")
    assert index.run("return document.querySelector('#board tbody:not([hidden])').dataset.board") == key
    selects = index.run("return [...document.querySelectorAll('select.where')].map(s => s.value)")
    assert set(selects) == {key}
    assert index.sorting("rank") == "ascending"
    ranks = [float(value) for value in index.column("rank") if value is not None]
    assert ranks[:-1] == sorted(ranks[:-1])
    assert ranks[-1] == 1  # the plain student, which sees no teacher, under a heading of its own


def test_a_chosen_method_joins_the_curves_and_the_calibration(index: Tab) -> None:
    Select(index.one("#where-curves")).select_by_value(slugs(PAIRS)[PAIRS[0]])
    settled(index)
    box = index.one(".picker input[value=method_57]")
    assert not box.is_enabled()  # it does not apply to the first pair
    box = index.one(".picker input[value=method_30]")
    box.send_keys(Keys.SPACE)
    for kind in ("curves", "calibration"):
        index.wait(f"return document.querySelector('[data-kind={kind}]').data.some(t => t.meta === 'method_30')")
    index.one(".picker input[value=method_30]").send_keys(Keys.SPACE)
    index.wait("return !document.querySelector('[data-kind=curves]').data.some(t => t.meta === 'method_30')")


def test_dark_is_a_button_that_is_remembered(browser: Any, site: Path) -> None:
    def paper(tab: Tab) -> int:
        return tab.run("return Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    tab = Tab(browser, site / "index.html")
    settled(tab)
    assert paper(tab) > 200
    tab.one(".theme").click()
    assert paper(tab) < 50
    grid_colour = "return document.querySelector('[data-kind=pareto]').layout.yaxis.gridcolor"
    tab.wait(f"{grid_colour} === 'rgb(44, 53, 63)'")

    def dark(page: str, scheme: str) -> Tab | None:
        opened = Tab(browser, site / page, scheme=scheme)
        return opened if paper(opened) < 50 else None

    # Chromium brings what one page's process has stored to the next one's a moment later: open it until then
    patience = WebDriverWait(browser, 30)
    other = patience.until(lambda _: dark("methods/kd.html", "light"))
    other.one(".theme").click()
    assert paper(other) > 200
    other.run("localStorage.clear()")
    patience.until(lambda _: dark("index.html", "dark"))  # without a choice the system's counts


@pytest.mark.parametrize("page", ["index.html", "methods/kd.html", f"pairs/{slugs(PAIRS)[PAIRS[0]]}.html"])
def test_no_error_no_warning_and_no_request_that_leaves_the_disk(browser: Any, site: Path, page: str) -> None:
    tab = Tab(browser, site / page)
    settled(tab)
    for select in tab.browser.find_elements(By.CSS_SELECTOR, "select.where"):
        Select(select).select_by_index(len(Select(select).options) - 1)
    settled(tab)
    requests = tab.requests()
    assert any(url.endswith("plotly.min.js") for url in requests)
    assert all(url.startswith(("file://", "data:", "blob:")) for url in requests), requests
    entries = tab.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(url.startswith(("file://", "data:", "blob:")) for url in entries), entries
    assert tab.problems() == []


def test_text_of_records_stays_text(browser: Any, site: Path) -> None:
    tab = Tab(browser, site / "index.html")
    settled(tab)
    assert tab.browser.title == "synthetic · kdbench"
    assert EVIL in tab.shown()
    boxes = tab.browser.find_elements(By.CSS_SELECTOR, ".picker input")
    evil = next(box for box in boxes if box.get_attribute("value") == EVIL)
    if not evil.is_selected():
        evil.send_keys(Keys.SPACE)
    tab.wait("return document.querySelector('[data-kind=curves]').data.some(t => t.meta.startsWith('<script'))")
    assert tab.browser.title == "synthetic · kdbench"


@pytest.mark.parametrize("page", ["index.html", "methods/method-07.html", f"pairs/{slugs(PAIRS)[PAIRS[0]]}.html"])
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_page_does_not_scroll_sideways_and_the_method_stays(
    browser: Any, site: Path, page: str, width: int
) -> None:
    tab = Tab(browser, site / page, (width, 844))
    settled(tab)
    assert tab.run("return document.documentElement.scrollWidth") <= width
    if page != "index.html":
        return
    scroll = "document.querySelector('#leaderboard .scroll')"
    assert tab.run(f"return {scroll}.scrollWidth > {scroll}.clientWidth")
    tab.run(f"{scroll}.scrollLeft = 400")
    left = tab.run(
        f"return document.querySelector('#board tbody:not([hidden]) th.method').getBoundingClientRect().left"
        f" - {scroll}.getBoundingClientRect().left"
    )
    assert 0 <= left <= 2


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_jumps_while_the_page_loads(browser: Any, site: Path, size: tuple[int, int]) -> None:
    tab = Tab(browser, site / "index.html", size)
    settled(tab)
    shift = tab.browser.execute_async_script(
        "const done = arguments[0]; let sum = 0;"
        "new PerformanceObserver(list => { for (const entry of list.getEntries()) sum += entry.value; })"
        ".observe({ type: 'layout-shift', buffered: true }); setTimeout(() => done(sum), 300);"
    )
    assert shift < 0.1


def test_a_point_of_the_cost_plot_leads_to_its_method(index: Tab) -> None:
    settled(index)
    index.run(
        "const area = document.querySelector('[data-kind=pareto]');"
        "area.emit('plotly_click', { points: [{ customdata: 'kd' }] });"
    )
    index.wait("return location.pathname.endsWith('methods/kd.html')")


def test_it_prints_on_white_without_its_controls(browser: Any, site: Path) -> None:
    tab = Tab(browser, site / "index.html", scheme="dark")
    tab.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert tab.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not tab.one("#filters").is_displayed()
        assert tab.run("return getComputedStyle(document.querySelector('.scroll.tall')).maxHeight") == "none"
    finally:
        tab.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_plots_are_light_and_as_wide_as_the_paper_while_printing(browser: Any, site: Path) -> None:
    tab = Tab(browser, site / "index.html", scheme="dark")
    settled(tab)
    layout = "document.querySelector('[data-kind=pareto]').layout"
    dark = tab.run(f"return {layout}.font.color")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    tab.wait(f"return {layout}.width === 640 && {layout}.font.color !== {json.dumps(dark)}")
    tab.run("dispatchEvent(new Event('afterprint'))")
    tab.wait(f"return {layout}.font.color === {json.dumps(dark)}")
    assert tab.run("return document.documentElement.dataset.theme") == ""
