"""The page in a browser: headless Chromium on pages of runs written by hand. Skipped where there is no Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch

import analysis
from analysis.laws import entropy_change, log_prob_change, logit_gradient
from analysis.report import write_report_page
from tests.report.page_runs import WORDS, stepped, token_distribution, write_run
from tests.report.test_page import header_of

playwright = pytest.importorskip("playwright.sync_api", reason="the page in a browser: playwright is not installed")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HOSTILE = [
    "<script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "</script>",
    "a\u202eb\u2066c\u200b",  # right to left, isolate, zero width
    "\x00\x07\x1b[31m",
    "שלום مرحبا",
    "日本語🙂",
    "@@block@@ &amp; \\u003c",
    "very long " * 400,
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page in a browser: no chromium on the PATH")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of PSR and NSR on the same prompts."""
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / f"{label.lower()}-seed0", label=label) for label in ("PSR", "NSR")]
    return write_report_page(runs, folder / "report.html")


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Open a page at a fragment; whatever reaches the console or the network fails the test."""
    pages: list[Any] = []
    errors: list[str] = []

    def open_page(file: Path, fragment: str = "", **settings: Any) -> Any:
        page = browser.new_page(**settings)
        pages.append(page)
        page.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if "report" not in request.url else None)
        page.set_default_timeout(20_000)
        page.goto(f"{file.as_uri()}#{fragment}")
        page.wait_for_selector("#loading", state="detached")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert errors == []


def count(page: Any, selector: str) -> int:
    return page.locator(selector).count()


def field(page: Any, label: str) -> Any:
    return page.get_by_label(label, exact=True)


def state_of(page: Any) -> dict[str, str]:
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")


class TestViews:
    def test_it_opens_with_curves_and_the_runs(self, report: Path, opened: Open) -> None:
        page = opened(report)
        assert page.title() == "PSR and NSR · Overview"
        assert page.locator("figcaption").first.inner_text().startswith("Correct rollouts")
        assert "Not known" not in page.locator(".charts").inner_text()
        assert "PSR" in page.locator("table:has(caption:text-is('Runs'))").inner_text()

    def test_names_at_the_lines_are_words_that_differ(self, tmp_path: Path, opened: Open) -> None:
        run = write_run(tmp_path / "r", label="GRPOTrainer (dapo)", contexts=False)

        def at_lines(page: Any, chart: str) -> list[str]:
            names = page.locator(f"figure:has(figcaption:has-text('{chart}')) svg > text").all_text_contents()
            return [name for name in names if name.endswith("…") or "rewarded" in name]

        page = opened(write_report_page(run))
        assert at_lines(page, "Correct rollouts") == ["GRPOTrainer (d…"]
        assert set(at_lines(page, "Mean weight")) == {"rewarded", "unrewarded"}
        both = opened(write_report_page([run, write_run(tmp_path / "s", label="PSR")], tmp_path / "report.html"))
        assert set(at_lines(both, "Mean weight")) == {
            "rewarded: GRPO…",
            "unrewarded: GR…",
            "rewarded: PSR",
            "unrewarded: PS…",
        }

    def test_filters(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts")
        assert page.locator("#found").inner_text() == "24 responses"
        field(page, "Method").select_option(label="NSR")
        assert page.locator("#found").inner_text() == "12 responses"
        field(page, "Reward").select_option(label="unrewarded")
        assert page.locator("#found").inner_text() == "6 responses"
        field(page, "Search").fill("three")
        field(page, "Search").press("Enter")
        assert page.locator("#found").inner_text() == "3 responses"
        assert state_of(page) == {"view": "rollouts", "run": "1", "reward": "unrewarded", "q": "three"}
        field(page, "Search").fill("nowhere")
        field(page, "Search").press("Enter")
        assert page.locator("#found").inner_text().endswith("nothing passes the filters.")
        page.go_back()
        assert page.locator("#found").inner_text() == "3 responses"

    def test_token_filters_dim_the_others(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts&followed=1")
        assert page.locator("#found").inner_text() == "24 responses"
        assert count(page, "#list .t.followed:not(.dim)") == 24
        assert count(page, "#list button.t:not(.followed):not(.dim)") == 0
        field(page, "|weight| from").fill("0.1")
        field(page, "|weight| from").press("Enter")
        assert page.locator("#found").inner_text() == "12 responses"  # PSR of rewarded, NSR of unrewarded ones

    def test_the_slider_keeps_one_step(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts")
        slider = page.locator("#step-slider")
        slider.focus()
        slider.press("ArrowRight")
        assert page.locator("#found").inner_text() == "8 responses"
        slider.press("ArrowRight")
        assert state_of(page)["step"] == "1"
        assert slider.get_attribute("aria-valuetext") == "step 1"

    def test_two_methods_beside_one_another(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts&run=0&beside=1")
        assert page.locator("#found").inner_text() == "6 prompts that PSR and NSR answered at the same step"
        assert page.locator(".pair").first.locator("h3").all_inner_texts() == ["PSR", "NSR"]

    def test_colours_follow_the_quantity(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts&run=1&reward=unrewarded")
        token = page.locator("#list button.t").first
        assert "minus" in (token.get_attribute("class") or "")
        assert "rgba(213" in (token.get_attribute("style") or "").replace(" ", "")
        field(page, "Colour by").select_option(label="entropy H")
        assert "rgba(0,114,178" in (page.locator("#list button.t").first.get_attribute("style") or "").replace(" ", "")
        assert "nats" in page.locator("#legend").inner_text()

    def test_a_held_out_prefix_through_updates(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=panel&prefix=1")
        assert count(page, "figure") == 2
        before = page.locator("#detail").inner_text()
        slider = page.locator("#update-slider")
        slider.focus()
        slider.press("ArrowRight")
        assert state_of(page)["at"] == "1"
        after = page.locator("#detail").inner_text()
        assert "update 0" in before
        assert "update 1" in after
        assert slider.evaluate("element => element === document.activeElement")
        assert "held-out prefix" in page.locator("#sentence").inner_text()


class TestToken:
    def test_a_click_shows_the_recorded_numbers(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts&run=1&reward=unrewarded&step=1")
        page.locator("#list button.t").first.click()
        detail = page.locator("#detail").inner_text()
        probs, token = token_distribution(0, 1, 1, 0)
        after = stepped(probs, token, 0.5 * -0.2)
        assert WORDS[token] in detail
        sentence = page.locator("#sentence").inner_text()
        assert f'NSR pushed "{WORDS[token]}" down' in sentence
        assert "as its own gradient does" in sentence
        moved = re.search(r"from ([\d.]+) to ([\d.]+)", sentence)
        assert moved is not None
        np.testing.assert_allclose([float(moved[1]), float(moved[2])], [probs[token], after[token]], rtol=5e-3)
        gains = np.where(np.arange(len(probs)) == token, 0.0, after - probs)
        fraction = round(100 * gains.max() / gains.clip(0).sum())
        assert f'{fraction}% of the mass that moved went to "{WORDS[int(gains.argmax())]}"' in sentence
        assert "unrewarded responses, this batch" in sentence
        assert "Prediction and outcome" in detail

    def test_an_address_is_a_finding(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts&run=1&step=1")
        page.locator("#list button.t").nth(5).click()
        fragment = page.evaluate("location.hash.slice(1)")
        shown = page.locator("#detail").inner_text()
        again = opened(report, fragment)
        assert again.locator("#detail").inner_text() == shown
        again.locator("#list .t.chosen").wait_for()
        page.go_back()
        assert page.locator("#detail").inner_text().startswith("A token")

    def test_an_address_of_another_page_says_so(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=rollouts&token=gone~1~2~3~4")
        assert "This page does not hold the token of the address" in page.locator("#detail").inner_text()

    @pytest.mark.parametrize(
        "fragment", ["view=__proto__", "step=x&page=-4&run=99&brush=1,2", "view=panel&prefix=9&at=x"]
    )
    def test_a_broken_address_opens(self, report: Path, opened: Open, fragment: str) -> None:
        page = opened(report, fragment)
        assert page.locator("main").inner_text()

    def test_keyboard(self, report: Path, opened: Open) -> None:
        page = opened(report)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "skip"
        page.keyboard.press("Enter")
        page.keyboard.press("2")
        assert state_of(page)["view"] == "rollouts"
        first = page.locator("#list button.t").first
        first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        place = page.locator("#detail .note").first.inner_text()
        assert "position 0" in place
        assert page.evaluate("document.activeElement.dataset.token") is not None
        page.keyboard.press("Escape")
        assert "token" not in state_of(page)
        assert page.evaluate("document.activeElement.dataset.token") is not None


class TestWhatIf:
    @pytest.mark.parametrize(("sign", "size", "eta"), [(1, 1.0, 0.0), (-1, 1.5, 0.5), (-1, 0.3, 2.0), (1, 2.0, 2.0)])
    @pytest.mark.parametrize("position", [0, 1])  # a token of the stored top, and one of the tail
    def test_the_numbers_are_those_of_python(
        self, report: Path, opened: Open, sign: int, size: float, eta: float, position: int
    ) -> None:
        probs, token = token_distribution(0, 1, 1, position)
        fragment = f"view=rollouts&token=nsr-seed0~1~1~{position}~1&sign={sign}&size={size}&eta={eta}"
        page = opened(report, fragment.replace("nsr-seed0", page_id(report, "NSR")))
        push = sign * size * 10**eta
        logits = torch.from_numpy(np.log(probs))
        direction = logit_gradient(logits, torch.tensor(token), size * sign)
        after = (logits + 10.0**eta * direction).log_softmax(-1).numpy()
        read = {
            name: float(page.locator(f"#{name}").get_attribute("data-value"))
            for name in ("exact-log-prob", "exact-entropy", "exact-pair")
        }
        # the page holds float32 numbers: ten of their roundings, of a change of up to `push`
        tolerance = 10 * float(np.finfo(np.float32).eps) * max(1.0, abs(push), float(abs(after[token])))
        assert read["exact-log-prob"] == pytest.approx(after[token] - np.log(probs[token]), abs=tolerance)
        entropy = float(-(np.exp(after) * after).sum() + (probs * np.log(probs)).sum())
        assert read["exact-entropy"] == pytest.approx(entropy, abs=10 * tolerance)
        order = np.argsort(-probs, kind="stable")
        other = next(int(v) for v in order if v != token)
        pair = push * ((1 - probs[token]) + probs[other])
        assert read["exact-pair"] == pytest.approx(pair, abs=tolerance)

    def test_the_first_order_is_that_of_the_laws(self, report: Path, opened: Open) -> None:
        probs, token = token_distribution(0, 1, 1, 0)
        stats = analysis.token_statistics(torch.from_numpy(np.log(probs)), tokens=torch.tensor(token))
        run = page_id(report, "NSR")
        page = opened(report, f"view=rollouts&token={run}~1~1~0~1&sign=-1&size=1&eta=0")
        rows = page.locator("table:has(caption:text-is('What if, in numbers')) tbody tr")
        shown = [number_of(rows.nth(i).locator("td").nth(3).inner_text()) for i in (0, 1)]
        expected = [float(law(stats, -1.0, 1.0)) for law in (log_prob_change, entropy_change)]
        np.testing.assert_allclose(shown, expected, rtol=6e-3)  # three digits are shown

    def test_sliders_and_keyboard(self, report: Path, opened: Open) -> None:
        page = opened(report, f"view=rollouts&token={page_id(report, 'NSR')}~1~1~0~1&sign=-1")
        before = page.locator("#exact-log-prob").inner_text()
        page.locator("#if-eta").focus()
        page.locator("#if-eta").press("ArrowRight")
        assert page.locator("#exact-log-prob").inner_text() != before
        assert "eta" in state_of(page)
        field(page, "Sign").select_option(label="push y up (PSR)")
        assert page.locator("#exact-log-prob").inner_text().startswith("+")


class TestPlane:
    def test_brushing_both_ways(self, report: Path, opened: Open) -> None:
        page = opened(report, "view=plane")
        assert page.locator("#inside").inner_text().startswith("96 of 96 tokens")
        box = page.locator("#plane").bounding_box()
        page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.up()
        brush = [float(end) for end in state_of(page)["brush"].split(",")]
        inside = page.locator("#inside").inner_text()
        expected = sum(
            brush[0] <= probs[token] <= brush[1] and brush[2] <= (probs**2).sum() <= brush[3]
            for probs, token in (
                token_distribution(0, step, rollout, position)
                for step in range(3)
                for rollout in range(4)
                for position in range(4)
            )
        )
        assert inside.startswith(f"{2 * expected} of 96 tokens in the brush")  # both runs have these distributions
        page.locator("#list button.t:not(.dim)").first.click()
        assert page.locator("#here").get_attribute("visibility") == "visible"
        field(page, "π(y) from").fill("0.99")
        field(page, "π(y) from").press("Enter")
        assert page.locator("#inside").inner_text().startswith("0 of 96 tokens")

    def test_the_entropy_line_is_a_bound(self, report: Path, opened: Open) -> None:
        """Below the dashed line NSR raises the entropy of every distribution; left of π = c it lowers it."""
        page = opened(report, "view=plane")
        corners = [
            tuple(map(float, pair.split(","))) for pair in page.locator("#entropy-line").get_attribute("points").split()
        ]
        line = np.array([((x - 56) / (640 - 56 - 16), (520 - 46 - y) / (520 - 46 - 14)) for x, y in corners])
        generator = np.random.default_rng(0)
        below = left = 0
        for size in (3, 4, 6, 12, 48):
            for spread in (0.05, 0.2, 1.0):
                probs = generator.dirichlet(np.full(size, spread), 2000)
                probs = np.clip(probs, 1e-30, None)
                p, c = probs[:, 0], (probs**2).sum(1)
                entropy, s = -(probs * np.log(probs)).sum(1), (probs**2 * np.log(probs)).sum(1)
                change = p * (np.log(p) + entropy) - s - c * entropy
                sure = (p > 0.02) & (p < 0.999) & (c < np.interp(p, line[:, 0], line[:, 1], right=2.0) - 2e-3)
                assert (change[sure] > 0).all()
                lowered = p < c - 1e-9
                assert (change[lowered & (p < 0.5)] < 1e-12).all()
                below, left = below + int(sure.sum()), left + int(lowered.sum())
        assert min(below, left) > 1000
        for p in (
            0.1,
            0.3,
            0.44,
        ):  # and it is no lower than it must be
            lowest = min(_smallest_collision(p, others) for others in (1, 3, 10, 30, 100, 300, 1000))
            assert np.interp(p, line[:, 0], line[:, 1]) == pytest.approx(lowest, abs=2e-3)


class TestBadInput:
    def test_hostile_words_are_text(self, tmp_path: Path, opened: Open) -> None:
        words = [*HOSTILE, *WORDS[len(HOSTILE) :]]
        run = write_run(tmp_path / "r", label=HOSTILE[0], prompts=HOSTILE[:2], words=words, length=8)
        page = opened(write_report_page(run), "view=rollouts")
        assert page.title().startswith(HOSTILE[0])
        assert count(page, "main script, main img") == 0
        text = page.locator("#list").inner_text()
        assert "‹U+202E›" in text
        assert "\u202e" not in text
        assert "␀␇␛" in text
        button = page.locator("#list button.t", has_text="very")
        assert len(button.first.inner_text()) <= 41
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        for fragment in ("view=plane", "view=panel", "view=overview"):
            opened(run.folder / "report.html", fragment)

    def test_long_responses_are_cut_and_unfold(self, tmp_path: Path, opened: Open) -> None:
        run = write_run(tmp_path / "r", steps=1, prompts=["one"], length=700, contexts=False)
        page = opened(write_report_page(run), "view=rollouts")
        first = page.locator("article").first
        assert first.locator("button[data-token]").count() == 300
        first.get_by_text("400 more").click()
        assert first.locator("button[data-token]").count() == 700

    def test_no_tokens(self, tmp_path: Path, opened: Open) -> None:
        run = write_run(tmp_path / "r", tokens=False, contexts=False, status="running")
        page = opened(write_report_page(run))
        text = page.locator("main").inner_text()
        assert "NSR (seed 0) is running after 3 steps; what is committed is shown." in text
        assert "no tokens were recorded" in text
        page.keyboard.press("2")
        assert "No tokens were recorded in these runs" in page.locator("main").inner_text()

    def test_different_tokenizers(self, tmp_path: Path, opened: Open) -> None:
        other = [f"x{i}" for i in range(len(WORDS))]
        runs = [write_run(tmp_path / "a", label="PSR"), write_run(tmp_path / "b", label="NSR", words=other)]
        page = opened(write_report_page(runs, tmp_path / "report.html"), "view=rollouts&step=0&run=0")
        texts = [page.locator("#list button.t").first.inner_text()]
        field(page, "Method").select_option(label="NSR")
        texts.append(page.locator("#list button.t").first.inner_text())
        assert texts[0].replace("w", "x") == texts[1]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["overview", "rollouts", "panel", "plane"])
def test_accessibility(report: Path, opened: Open, view: str, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="accessibility: axe is not installed")
    token = f"&token={page_id(report, 'NSR')}~1~1~0~1" if view == "rollouts" else ""
    page = opened(report, f"view={view}&theme={theme}{token}")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("width", [360, 1280, 1920])
def test_no_view_is_wider_than_the_screen(report: Path, opened: Open, width: int) -> None:
    token = f"&token={page_id(report, 'NSR')}~1~1~0~1"
    page = opened(report, viewport={"width": width, "height": 800})
    for view in ("overview", "rollouts", "panel", "plane"):
        page.goto(f"{report.as_uri()}#view={view}{token}")
        page.wait_for_selector(f"nav a[aria-current=page][href*='view={view}']")
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, view


def _smallest_collision(p: float, others: int) -> float:
    """The least c at which NSR of a token of probability p lowers the entropy; the rest: a large token, equal ones."""
    large = np.linspace(1e-4, 1 - p - 1e-4, 4000)
    probs = np.stack([np.full_like(large, p), large, *[(1 - p - large) / others] * others], 1)
    entropy, c = -(probs * np.log(probs)).sum(1), (probs**2).sum(1)
    raises = p * (np.log(p) + entropy) - (probs**2 * np.log(probs)).sum(1) - c * entropy > 0
    return float(np.where(raises, 1.0, c).min())


def test_a_token_on_a_phone(report: Path, opened: Open) -> None:
    page = opened(report, "view=rollouts", viewport={"width": 360, "height": 740})
    page.locator("#list button.t").nth(3).click()
    box = page.locator("#sentence").bounding_box()
    assert 0 < box["y"] < 740
    page.get_by_role("button", name="Close").click()
    assert "token" not in state_of(page)
    assert page.evaluate("document.activeElement.dataset.token") is not None


def page_id(report: Path, label: str) -> str:
    """The id of a run in addresses: of several runs, its folder's path, quoted."""
    return quote(next(run["id"] for run in header_of(report)["runs"] if run["label"] == label), safe="")


def number_of(text: str) -> float:
    return float(text.replace("−", "-"))
