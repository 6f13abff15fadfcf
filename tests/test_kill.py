"""Kill -9 at every operation of the store: nothing said to be done is lost; resumed bytes are those of a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def campaign(*arguments: str) -> dict[str, Any]:
    """The campaign in a process of its own, which forks before any thread exists."""
    command = [sys.executable, str(Path(__file__).with_name("campaign.py")), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_kill_at_operations_all_over_the_study_loses_nothing() -> None:
    found = campaign("--kills", "80", "--double", "10")
    assert found["problems"] == []
    assert found["operations"] > 150
    assert found["single"]["points"] > 60
    assert found["kills"] > found["single"]["points"] + 10


@pytest.mark.slow
def test_a_kill_at_every_operation_loses_nothing() -> None:
    found = campaign("--double", "40")
    assert found["problems"] == []
    assert found["single"]["points"] > found["operations"] > 150
    assert found["kills"] > found["single"]["points"] + 40


@pytest.mark.slow
def test_planted_faults_are_caught() -> None:
    found = campaign("--faults")
    assert [fault for fault, caught in found["caught"].items() if not caught] == []
    assert len(found["caught"]) >= 5


@pytest.mark.slow
def test_two_trials_and_a_thousand_double_kills() -> None:
    assert campaign("--seeds", "2", "--double", "1000")["problems"] == []
