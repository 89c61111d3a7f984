"""Time of `report.html` with 50,000 tokens: how long it takes to write, and a browser to answer a click.

OMP_NUM_THREADS=1 python -m pytest benchmarks/test_page.py --benchmark-enable
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from analysis.records import Run
from analysis.report import write_report_page
from tests.report.page_runs import PROMPTS, write_run

STEPS, LENGTH = 50, 250  # of four responses a step: 50,000 tokens
CLICKS = 40
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ANSWER = """async () => {
  const buttons = [...document.querySelectorAll("#list button[data-token]")];
  const times = [];
  for (let i = 0; i < CLICKS; i += 1) {
    const start = performance.now();
    buttons[(i * 97) % buttons.length].click();
    document.getElementById("detail").getBoundingClientRect(); // the new layout is there
    times.push(performance.now() - start);
    await new Promise(requestAnimationFrame);
  }
  return times;
}""".replace("CLICKS", str(CLICKS))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    assert len(PROMPTS) == 2
    return write_run(tmp_path_factory.mktemp("page") / "nsr-seed0", steps=STEPS, length=LENGTH)


def test_writing(benchmark: Any, run: Run, tmp_path: Path) -> None:
    page = benchmark.pedantic(write_report_page, (run, tmp_path / "report.html"), rounds=3)
    benchmark.extra_info["tokens"] = run.rows("tokens")
    benchmark.extra_info["bytes"] = page.stat().st_size


@pytest.mark.skipif(CHROMIUM is None, reason="the page in a browser: no chromium on the PATH")
def test_click(benchmark: Any, run: Run, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page in a browser: playwright is not installed")
    page = write_report_page(run, tmp_path / "report.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(f"{page.as_uri()}#view=rollouts")
        tab.wait_for_selector("#list button[data-token]")
        times = benchmark.pedantic(tab.evaluate, (_ANSWER,), rounds=1)
        browser.close()
    benchmark.extra_info["tokens"] = run.rows("tokens")
    benchmark.extra_info["clicks"] = CLICKS
    benchmark.extra_info["median_seconds"] = statistics.median(times) / 1000
    benchmark.extra_info["greatest_seconds"] = max(times) / 1000
