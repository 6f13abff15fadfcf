"""The report in a real browser: every chart is drawn, nothing is complained of, nothing is asked of the network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from test_report import Reader, page, specs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage"),
)


def browse(file: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    log = ("--enable-logging=stderr", "--v=0", f"--log-net-log={folder / 'net.json'}")
    profile = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=8000", "--dump-dom")
    command = [BROWSER, *QUIET, *options, *profile, *log, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def requests(folder: Path) -> list[str]:
    """Addresses asked for; the browser's own calls home, which no page can stop, left out."""
    asked = re.findall(r'"url":"(https?://[^"]+)"', (folder / "net.json").read_text(errors="replace"))
    return [url for url in asked if not re.match(r"https?://[^/]*(google|gvt1)[^/]*/", url)]


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """What the browser shows, what it says, and the page's file."""
    folder = tmp_path_factory.mktemp("browser")
    file = folder / "report.html"
    file.write_text(page(), "utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if request.param == "dark" else []
    done = browse(file, folder, *scheme)
    return done.stdout, done.stderr, folder


def test_every_chart_is_drawn(seen: tuple[str, str, Path]) -> None:
    dom, _, _ = seen
    expected = len(specs(page()))
    assert len(re.findall(r'class="[^"]*\bdrawn\b', dom)) == expected
    assert dom.count("<svg") >= expected
    assert "could not be drawn" not in " ".join(Reader(dom).words)
    assert dom.count('aria-roledescription="') > 25  # points that a screen reader can visit


def test_the_console_stays_empty(seen: tuple[str, str, Path]) -> None:
    _, said, _ = seen
    assert not [line for line in said.splitlines() if "CONSOLE" in line]


def test_nothing_is_asked_of_the_network(seen: tuple[str, str, Path]) -> None:
    _, _, folder = seen
    assert requests(folder) == []


def test_a_page_that_asks_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<img src="http://127.0.0.1:9/picture.png">')
    browse(tmp_path / "page.html", tmp_path)
    assert requests(tmp_path)
