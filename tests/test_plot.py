"""Plots for papers, on an axis of matplotlib; and the notebook that makes one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunephase.analysis import Curve, Group, summarise
from prunephase.errors import UserError
from prunephase.looks import sparse

NOTEBOOK = Path(__file__).parent.parent / "docs" / "from-study-to-figure.ipynb"
SHAPE = np.array([0.80, 0.79, 0.74, 0.70, 0.76, 0.85, 0.86, 0.66])


@pytest.fixture
def plt() -> Iterator[Any]:
    found = pytest.importorskip("matplotlib.pyplot")
    found.switch_backend("Agg")
    with found.rc_context():
        yield found
    found.close("all")


def group(rate: float = 0.2, seeds: int = 5, fraction: float = 0.2) -> Group:
    draw = np.random.default_rng(int(100 * rate))
    test = SHAPE - rate / 10 + draw.normal(0, 0.004, (seeds, len(SHAPE)))
    levels = np.arange(len(SHAPE))
    return Group({"noise.rate": rate}, levels, 1 - (1 - fraction) ** levels, test, None, tuple(range(seeds)))


def both(*groups: Group) -> Curve:
    return Curve("test_accuracy", ("noise.rate",), groups)


def test_a_curve_is_its_means_with_their_interval(plt: Any) -> None:
    one = group()
    ax = one.plot(plt.subplots()[1])
    found = summarise(one.test)
    line, dip, peak = ax.lines
    assert np.array_equal(line.get_xdata(), one.levels)
    assert np.array_equal(line.get_ydata(), found.mean)
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == found.high.max()
    assert band[:, 1].min() == found.low.min()
    assert (dip.get_xdata()[0], peak.get_xdata()[0]) == (3, 6)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["n = 5"]
    words = {text.get_text() for text in ax.texts}
    assert {"light", "critical", "sweet", "collapsed"} <= words
    assert {f"dip {100 * found.mean[3]:.1f} %", f"peak {100 * found.mean[6]:.1f} %"} <= words


def test_levels_are_called_by_their_sparsity_and_as_many_as_have_room(plt: Any) -> None:
    one = group()
    for width in (3, 9):
        ax = one.plot(plt.subplots(figsize=(width, 3))[1])
        shown = ax.get_xticks().astype(int)
        assert [text.get_text() for text in ax.get_xticklabels()] == [sparse(one.sparsity[level]) for level in shown]
        assert len(shown) == (8 if width == 9 else 4)


def test_curves_differ_in_colour_marker_and_dash(plt: Any) -> None:
    ax = both(group(0.2), group(0.4), group(0.8)).plot(plt.subplots()[1])
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"rate {r}, n = 5" for r in (0.2, 0.4, 0.8)]
    for look in ("get_color", "get_marker"):
        assert len({getattr(line, look)() for line in lines}) == 3
    assert len({repr(line._unscaled_dash_pattern) for line in lines}) == 3
    assert not ax.texts
    with pytest.raises(UserError, match="not those of 2"):
        both(group(0.2), group(0.4)).plot(ax, phases=True)


def test_one_seed_has_no_band_and_its_dip_is_a_candidate(plt: Any) -> None:
    ax = group(seeds=1).plot(plt.subplots()[1], phases=False)
    assert not ax.collections[0].get_paths()
    assert all("(candidate)" in text.get_text() for text in ax.texts)
    assert all(ring.get_alpha() < 1 for ring in ax.lines[1:])


def test_ladders_of_unlike_sparsities_stand_by_what_is_kept(plt: Any) -> None:
    ax = both(group(0.2), group(0.4, fraction=0.5)).plot()  # the current axis
    assert ax is plt.gca()
    assert ax.get_xscale() == "log"
    left, right = ax.get_xlim()
    assert left > 1 > right > 0
    assert np.allclose(ax.lines[0].get_xdata(), 0.8 ** np.arange(8))


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(UserError, match=r"pip install 'prunephase\[plot\]'"):
        group().plot()


@pytest.mark.usefixtures("plt")
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert len((tmp_path / "figure.csv").read_text().splitlines()) == 1 + 2 * 3 * 8
