"""The report in a real browser: charts drawn, nothing on the console, no request but the page itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from prunephase.reports.page import render
from test_report import PROVENANCE, Page, study

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser to open the report in: {', '.join(NAMES)}")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000"),
)


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page; requests: those of the page itself, not the browser's own."""

    dom: str
    console: list[str]
    requests: set[str]


def visit(html: str, folder: Path, *flags: str) -> Seen:
    page, log = folder / "report.html", folder / "net.json"
    page.write_text(html, "utf-8")
    own = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--net-log-capture-mode=Everything"]
    done = subprocess.run(
        [str(BROWSER), *FLAGS, *own, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = [line.rstrip(",") for line in log.read_text("utf-8", "replace").splitlines() if '"initiator"' in line]
    asked = [json.loads(line)["params"] for line in lines]
    urls = {event["url"] for event in asked if event["initiator"] != "not an origin"}
    requests = {url for url in urls if not url.startswith(("file:", "data:"))}
    return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], requests)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_chart_is_drawn_without_a_word_on_the_console_or_a_request(theme: str, tmp_path: Path) -> None:
    html = render("a study", *study(seeds=2), PROVENANCE)
    seen = visit(html, tmp_path, *(["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []))
    charts = len(Page(html).specs)
    assert seen.console == []
    assert seen.requests == set()
    assert seen.dom.count('role="graphics-document"') == charts
    assert len(re.findall(r'class="chart[^"]* drawn"', seen.dom)) == charts
    assert "could not be drawn" not in seen.dom.split("<script", 2)[0]
    for phase in ("I light", "II critical", "III sweet"):
        assert f">{phase}</text>" in seen.dom or f">{phase.split()[0]}</text>" in seen.dom
    assert seen.dom.count('aria-label="test, last epoch, level ') == 12


def test_several_curves_and_a_half_done_study_are_drawn(tmp_path: Path) -> None:
    table, epochs, cards = study(seeds=2, levels=7, rates=(0.1, 0.4))
    html = render("two rates", table.filter(table["level"] + table["seed"] < 6), epochs, cards, {}, ["one is missing"])
    seen = visit(html, tmp_path)
    assert seen.console == []
    assert len(re.findall(r'class="chart[^"]* drawn"', seen.dom)) == len(Page(html).specs)


def test_text_from_outside_runs_nothing(tmp_path: Path) -> None:
    attack = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    table, epochs, cards = study(seeds=1, levels=4, rates=(0.1, 0.2), text=attack)
    seen = visit(render(attack, table, epochs, cards, {attack: attack}, [attack]), tmp_path)
    assert "<title>owned" not in seen.dom
    assert seen.console == []
    assert seen.requests == set()


def test_the_policy_would_stop_what_slipped_through(tmp_path: Path) -> None:
    html = render("a study", *study(seeds=1, levels=3), {})
    bad = "<script>document.title='owned'</script><img src='https://evil.example/x.png'></main>"
    seen = visit(html.replace("</main>", bad), tmp_path)
    assert "<title>owned" not in seen.dom
    assert len(seen.console) == 2
    assert not [url for url in seen.requests if "evil" in url]
    assert json.dumps(seen.console).count("Content Security Policy") == 2


def test_a_request_of_the_page_would_be_noticed(tmp_path: Path) -> None:
    assert visit("<!DOCTYPE html><img src='http://evil.example/x.png'>", tmp_path).requests == {
        "http://evil.example/x.png"
    }
