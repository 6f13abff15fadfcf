"""From Python: functions and arrays as they are, each named by what it is."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunephase as pp
from prunephase import data, plugins, sections
from prunephase.errors import UserError
from prunephase.trial import Trial

HERE = "test_own_python"


def network(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(*input_shape, classes)


class Net(nn.Linear):
    """A class is a function, too."""


def criterion(snapshot: pp.Snapshot) -> dict[str, torch.Tensor]:
    return {name: mask.float() for name, mask in snapshot.masks.items()}


def test_a_function_stands_for_its_name() -> None:
    named = {"name": f"{HERE}:network"}
    assert pp.Trial(model={"name": network}).digest() == pp.Trial(model=named).digest()
    assert pp.Trial(model={"name": Net}).model.name == f"{HERE}:Net"
    assert pp.Trial(antidote={"kind": network}).antidote.kind == f"{HERE}:network"
    assert pp.Trial(data={"source": network}, noise={"kind": network}).noise.kind == f"{HERE}:network"
    trials = pp.grid(pp.Trial(), model__name=network, pruning__criterion=["random", criterion])
    assert [t.pruning.criterion for t in trials] == ["random", f"{HERE}:criterion"]
    assert {t.model.name for t in trials} == {f"{HERE}:network"}


def test_plugins_are_names_modules_or_functions_in_them() -> None:
    assert plugins.names([]) == frozenset()
    assert plugins.names(["a.b", sys.modules[__name__], network, data.custom]) == {"a", HERE, "prunephase"}


def test_what_has_no_name_to_import_it_by_is_refused() -> None:
    class Within(nn.Linear):
        pass

    for wrong in (lambda *_: None, Within, Net(1, 1), Net(1, 1).forward, functools.partial(network, classes=3)):
        with pytest.raises(UserError, match="write a function at the top of a file"):
            pp.Trial(model={"name": wrong})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (["-c"], "is in no file that another process could import"),
        (["script.py"], "script:network"),
        (["-m", "script"], "script:network"),
    ],
)
def test_a_function_of_the_script_that_runs_is_named_after_its_file(how: list[str], words: str, tmp_path: Path) -> None:
    code = "def network(shape, classes): ...\nfrom prunephase.plugins import reference\nprint(reference(network))\n"
    (tmp_path / "script.py").write_text(code)
    words_of_it = [*how, code] if how == ["-c"] else how
    done = subprocess.run([sys.executable, *words_of_it], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert words in done.stdout + done.stderr


def test_arrays_are_kept_under_their_content_and_come_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50, 4)), draw.integers(0, 3, 50)
    spec = pp.save_arrays(tmp_path, x_train=torch.tensor(x), y_train=y.tolist(), y_clean=(y + 1) % 3)
    assert spec == pp.save_arrays(tmp_path, y_clean=(y + 1) % 3, x_train=x, y_train=y)
    assert len(list(tmp_path.iterdir())) == 1
    other = pp.save_arrays(tmp_path, x_train=x, y_train=y)
    assert Trial(data=other).digest() != Trial(data=spec).digest()
    assert isinstance(spec, sections.Data)
    loaded = data.load(spec.model_copy(update={"normalise": "keep"}))
    assert torch.equal(loaded.train.inputs, torch.tensor(x)[loaded.train.index])
    assert torch.equal(loaded.train.truth, (loaded.train.labels + 1) % 3)
    named = pp.save_arrays(tmp_path, x=x, y=np.array(["ant", "bee", "cow"])[y])
    assert data.load(named).classes == ("ant", "bee", "cow")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": [[1.0]], "yy": [0]}, "'yy': unknown name; did you mean 'y'"),
        ({"x": [[1.0]]}, "expected x_train and y_train"),
        ({"x": [[1.0], None], "y": [0, 1]}, "x: is no array of numbers"),
        ({"x": np.array([{1}, {2}]), "y": [0, 1]}, "x: is no array of numbers or of texts"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        pp.save_arrays(tmp_path, **arrays)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_study_of_ones_own_objects_runs(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 5))
    one = pp.Trial(
        data=pp.save_arrays(tmp_path / "arrays", x=x, y=(x[:, 0] > 0).astype(int)),
        model={"name": network},
        recipe={"epochs": 1, "batch_size": 20},
        pruning={"levels": 1, "fraction": 0.5, "criterion": criterion},
    )
    with pytest.raises(UserError, match=f"--plugins {HERE}"):
        pp.run([one], tmp_path / "runs", workers=1)
    table = pp.run([one], tmp_path / "runs", workers=1, plugins=[network])
    assert table["remaining"].to_list() == [10, 5]
