"""The public face: what `import prunephase` offers, and what it does not cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

import prunephase as pp


@pytest.mark.parametrize("name", pp.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    assert getattr(pp, name).__doc__
    assert name in dir(pp)


def test_all_is_what_is_offered() -> None:
    assert sorted(set(pp.__all__)) == sorted(pp._HOMES)
    assert len(set(pp.__all__)) == len(pp.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prune_everything'"):
        pp.prune_everything  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import prunephase",
        "import prunephase.cli",
        "import prunephase.trial, prunephase.study, prunephase.streams, prunephase.errors",
        "import prunephase as pp; pp.load('preset:demo'); pp.grid(pp.Trial(), seed=range(3)); pp.UserError",
    ],
)
def test_values_and_the_command_line_are_there_without_torch(code: str) -> None:
    heavy = "('torch', 'sklearn', 'altair', 'scipy')"
    script = f"{code}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_worker_does_not_wait_for_tables_and_statistics() -> None:
    heavy = "('polars', 'scipy.stats', 'sklearn', 'altair')"
    script = f"import prunephase.cohort, sys\nprint([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
