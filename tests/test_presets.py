"""The published settings: each is whole at both scales, keeps its digest, builds its network and says what it costs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from prunephase import cli, models, study
from prunephase.cli import costs
from prunephase.errors import UserError

NAMES = tuple(study.presets())
# Study digests at full and at small scale: a changed default or a slip of the pen shows here.
DIGESTS: dict[str, tuple[str, str | None]] = json.loads(Path(__file__).with_name("presets.json").read_text())
SMALL = [name for name in NAMES if DIGESTS.get(name, ("", None))[1] is not None]
FIGURES = {
    "he2022": list(range(1, 48)),
    "dsd2": [1, 2, 3, 4, 5],
    "quest2023": [5],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_whole_at_both_scales_and_keeps_its_digest(name: str) -> None:
    full, small = DIGESTS[name]
    assert study.load(f"preset:{name}").digest() == full
    if small is not None:
        assert study.load(f"preset:{name}:small").digest() == small


def test_every_pinned_digest_has_its_preset() -> None:
    assert set(DIGESTS) == set(NAMES)
    assert [name for name in NAMES if name not in SMALL] == ["antidotes", "demo"]  # small as they are


@pytest.mark.parametrize("paper", FIGURES)
def test_every_figure_has_its_preset(paper: str) -> None:
    for figure in FIGURES[paper]:
        assert any(name.startswith(f"{paper}-fig{figure:02}") for name in NAMES), figure


@pytest.mark.parametrize("name", NAMES)
def test_the_network_of_a_preset_builds(name: str) -> None:
    for scale in ("", ":small")[: 1 + (name in SMALL)]:
        trial = study.load(f"preset:{name}{scale}").trials[0]
        shape, classes, _ = costs._data(trial)
        with torch.device("meta"):
            network = models.FAMILY[trial.model.name](shape, classes, **trial.model.kwargs)
        assert sum(p.numel() for p in network.parameters()) > 100


@pytest.mark.parametrize("name", SMALL)
def test_a_small_scale_is_a_small_part_of_the_full_one(name: str) -> None:
    full, small = costs.price(name), costs.price(f"{name}:small")
    assert small.pflops < 0.05 * full.pflops or small.pflops < 0.02
    assert small.epochs <= 1_500
    assert small.trials <= 4


def test_the_cost_is_that_of_the_papers_convention() -> None:
    # 3 x 67.2 M x 50,000 x 160 = 1.613e15 a level (DSD2's teaser, without the operations of BatchNorm)
    vgg = costs.price("dsd2-fig01")
    assert vgg.pflops / vgg.trainings == pytest.approx(3 * 67.2e6 * 50_000 * 160 / 1e15, rel=1e-3)
    resnet = costs.price("he2022-fig01-cifar10")
    assert resnet.pflops / resnet.trainings == pytest.approx(3 * 555.4e6 * 50_000 * 160 / 1e15, rel=1e-3)
    lenet = costs.price("he2022-mnist")
    assert (lenet.trials, lenet.trainings, lenet.epochs) == (5, 125, 25_000)
    assert lenet.pflops == pytest.approx(3 * 266_200 * 60_000 * 25_000 / 1e15)


def test_a_shared_dense_level_and_the_ladder_that_masks_come_from_are_counted_once() -> None:
    three = costs.price("he2022-fig13")  # three criteria, one dense level per seed
    assert (three.trials, three.trainings) == (15, 5 * (1 + 3 * 24))
    tickets = costs.price("he2022-fig33:small")  # the re-initialised net takes its masks from the other trial
    assert (tickets.trials, tickets.trainings) == (2, 1 + 2 * 10)


def test_the_figure_of_mnist_is_counted_as_the_papers_code_counts() -> None:
    trial = study.preset("he2022-fig01-mnist")
    assert (trial.pruning.count_ignored, trial.pruning.levels, trial.data.validation) == (True, 24, 0.0)
    assert (trial.recipe.epochs, trial.recipe.lr, trial.recipe.momentum) == (200, 0.1, 0.0)
    assert (trial.noise.kind, trial.noise.rate) == ("uniform-relabel", 0.2)


@pytest.mark.parametrize("name", ["he2022-fig10", "dsd2-fig05:small", "vit2023-vit", "antidotes", "demo"])
def test_init_gives_a_file_that_stands_alone(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.toml"
    assert cli.main(["init", name, "-o", str(file)]) == 0
    text = file.read_text()
    assert "extends =" not in text
    assert text.startswith("# ")
    assert study.load(file).digest() == study.load(f"preset:{name}").digest()
    assert study.load(file).name == study.load(f"preset:{name}").name
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demo:small", "only the full one"),
        ("he2022-fig02:smal", "did you mean 'small'"),
        ("he2022-fig2", "did you mean"),
    ],
)
def test_a_scale_that_is_not_there_is_refused_in_one_line(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        study.load(f"preset:{name}")
    assert len(str(error.value).splitlines()) == 1


def test_the_list_names_every_preset_and_both_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["presets"]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        assert f"  {name} " in said
        assert f"  {name}:small " in said or name not in SMALL
    assert "3 x multiply-accumulates" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_scale_plans(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Path(os.environ.get("PRUNEPHASE_DATA", "nowhere"))
    files = {"mnist": "train-images-idx3-ubyte.gz", "cifar10": "cifar10-train.parquet"}
    sources = {trial.data.source for trial in study.load(f"preset:{name}:small").trials}
    for source in sources:
        if source not in files or not (home / files[source]).exists():
            pytest.skip(f"no {source} in PRUNEPHASE_DATA")
    assert cli.main(["plan", f"preset:{name}:small", "--store", str(tmp_path / "runs"), "--workers", "2"]) == 0
    assert "trials" in capsys.readouterr().out
