"""Study files: what they say, what they inherit, and every mistake at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from prunephase.errors import UserError
from prunephase.study import Study, grid, load, parse, preset, preset_text, presets
from prunephase.trial import Trial

BASE = """
name = "base"
seeds = [0, 1]
[noise]
kind = "pairflip"
rate = 0.2
[recipe]
lr = 0.05
epochs = 3
"""


def write(folder: Path, text: str, name: str = "study.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def rates(study: Study) -> list[tuple[float, int]]:
    return [(t.noise.rate, t.seed) for t in study.trials]


def lines(error: pytest.ExceptionInfo[UserError]) -> list[str]:
    return str(error.value).splitlines()


def test_a_study_is_its_base_its_grid_and_its_seeds_innermost(tmp_path: Path) -> None:
    study = load(
        write(tmp_path, BASE + '[grid]\n"noise.rate" = [0.1, 0.4]\n"pruning.criterion" = ["random", "gradient"]')
    )
    assert study.name == "base"
    found = [(t.noise.rate, t.pruning.criterion, t.seed) for t in study.trials]
    assert found == [(r, c, s) for r in (0.1, 0.4) for c in ("random", "gradient") for s in (0, 1)]
    assert {t.recipe.lr for t in study.trials} == {0.05}


@pytest.mark.parametrize(
    "axes",
    [
        '[grid]\n"noise.rate" = [0.1, 0.4]',
        "[grid]\nnoise.rate = [0.1, 0.4]",
        "[grid.noise]\nrate = [0.1, 0.4]",
        "grid.noise.rate = [0.1, 0.4]",
        "[grid]\nnoise = [{rate = 0.1}, {rate = 0.4}]",
        '[grid]\nnoise = [{kind = "pairflip", rate = 0.1}, {rate = 0.4}]',
    ],
)
def test_a_grid_may_be_written_quoted_nested_or_as_whole_sections(tmp_path: Path, axes: str) -> None:
    text = axes + BASE if axes.startswith("grid.") else BASE + axes
    study = load(write(tmp_path, text))
    assert rates(study) == [(0.1, 0), (0.1, 1), (0.4, 0), (0.4, 1)]
    assert {t.noise.kind for t in study.trials} == {"pairflip"}


def test_a_grid_reaches_into_the_arguments_of_a_model() -> None:
    for axes in ({"model.kwargs.widths": [[3], [4]]}, {"model": {"kwargs": {"widths": [[3], [4]]}}}):
        study = parse({"model": {"name": "mlp"}, "grid": axes})
        assert [t.model.kwargs for t in study.trials] == [{"widths": [3]}, {"widths": [4]}]


def test_extends_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.toml")
    (tmp_path / "deeper").mkdir()
    write(tmp_path, 'extends = "base.toml"\nseeds = [7]\n[noise]\nrate = 0.4\n[model]\nname = "mlp"\n', "middle.toml")
    study = load(write(tmp_path / "deeper", 'extends = "../middle.toml"\n[recipe]\nlr = 0.5\n'))
    (only,) = study.trials
    assert (only.noise.kind, only.noise.rate, only.model.name, only.seed) == ("pairflip", 0.4, "mlp", 7)
    assert (only.recipe.lr, only.recipe.epochs, study.name) == (0.5, 3, "base")


def test_extends_may_name_a_preset(tmp_path: Path) -> None:
    study = load(write(tmp_path, 'extends = "preset:he2022-mnist"\nseeds = [5]\n'))
    assert study.trials == (preset("he2022-mnist").model_copy(update={"seed": 5}),)


def test_arguments_are_replaced_not_merged(tmp_path: Path) -> None:
    write(tmp_path, '[model]\nname = "mlp"\nkwargs = {widths = [3], depth = 2}\n', "base.toml")
    study = load(write(tmp_path, 'extends = "base.toml"\n[model]\nkwargs = {widths = [4]}\n'))
    assert study.trials[0].model.kwargs == {"widths": [4]}


@pytest.mark.parametrize("other", ["study.toml", "./study.toml", "loop.toml"])
def test_a_file_that_extends_itself_is_refused(tmp_path: Path, other: str) -> None:
    write(tmp_path, 'extends = "study.toml"', "loop.toml")
    with pytest.raises(UserError) as error:
        load(write(tmp_path, f'extends = "{other}"'))
    assert "extends itself" in str(error.value)
    assert len(lines(error)) == 1


def test_set_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    study = load(path, ["noise.rate=0.4", "seeds=[3]", "recipe.schedule=cosine", "recipe.epochs = 9", 'name="other"'])
    assert rates(study) == [(0.4, 3)]
    assert (study.trials[0].recipe.schedule, study.trials[0].recipe.epochs, study.name) == ("cosine", 9, "other")
    assert load(path, ["noise.rate=0.3", "noise.rate=0.4"]) == load(path, ["noise.rate=0.4"])


@pytest.mark.parametrize("axes", ['"noise.rate" = [0.1, 0.3]', "noise.rate = [0.1, 0.3]"])
def test_what_is_set_by_hand_is_no_longer_varied(tmp_path: Path, axes: str) -> None:
    path = write(tmp_path, f"{BASE}[grid]\n{axes}\nrecipe.lr = [0.1, 0.2]\n")
    study = load(path, ["noise.rate=0.4"])
    assert [(t.noise.rate, t.recipe.lr, t.seed) for t in study.trials] == [
        (0.4, lr, s) for lr in (0.1, 0.2) for s in (0, 1)
    ]
    assert rates(load(path, ["grid.noise.rate=[0.5]", "recipe.lr=0.1"])) == [(0.5, 0), (0.5, 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("noise.rate", "expected path=value"),
        ("nosie.rate=0.4", "did you mean 'noise'?"),
        ("noise.rtae=0.4", "did you mean 'rate'?"),
        ("noise.rate=much", "noise.rate = 'much'"),
        ("noise.rate=1.5", "noise.rate = 1.5"),
        ("seed=3", "did you mean 'seeds'?"),
        ("=3", "unknown field"),
    ],
)
def test_a_bad_set_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        load(write(tmp_path, BASE), [text])
    assert words in str(error.value)
    assert len(lines(error)) == 1


def test_all_bad_fields_are_reported_at_once_with_path_value_and_what_is_allowed() -> None:
    bad: dict[str, Any] = {
        "seeds": [0, -1],
        "colour": "red",
        "noise": {"kind": "symetric-flip", "rate": 1.5},
        "recipe": {"lr": -1, "epochs": 2.5, "optimizer": "sdg", "batchsize": 3},
        "pruning": {"criterion": "magnitud", "levels": "many"},
        "model": 3,
        "restart": {"to": "1000"},
    }
    with pytest.raises(UserError) as error:
        parse(bad, "my.toml")
    found = lines(error)
    assert all(line.startswith("my.toml: ") for line in found)
    expected = {
        "seeds": "[0, -1]", "colour": "unknown field", "noise.kind": "did you mean 'symmetric-flip'?",
        "noise.rate": "1.5", "recipe.lr": "greater than 0", "recipe.epochs": "2.5", "recipe.optimizer": "adamw",
        "recipe.batchsize": "did you mean 'batch_size'?", "pruning.criterion": "did you mean 'magnitude'?",
        "pruning.levels": "'many'", "model": "[model]", "restart.to": "'1000'",
    }  # fmt: skip
    assert len(found) == len(expected)
    for path, words in expected.items():
        (line,) = [line for line in found if line.startswith((f"my.toml: {path}:", f"my.toml: {path} ="))]
        assert words in line, line


def test_bad_values_in_a_grid_are_reported_once_each() -> None:
    with pytest.raises(UserError) as error:
        parse({"noise": {"kind": "pairflip"}, "grid": {"noise.rate": [0.1, 2.0, "x"], "recipe.lr": [0.1, 0.2]}})
    assert len(lines(error)) == 2


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"noise.rate": 0.1}, "expected a list of values"),
        ({"noise.rate": []}, "expected a list of values"),
        ({"noise": {}}, "expected a list of values"),
        ({"seed": [1]}, "write seeds"),
        ({"noise.rtae": [1]}, "did you mean 'rate'?"),
        ({"nosie.rate": [1]}, "did you mean 'noise'?"),
        ({"recipe.lr": [0.1, 0.1]}, "same trial"),
        ({"recipe.lr": [1, 1.0]}, "same trial"),
        ([1], "expected a table"),
        ({"recipe.lr": [float(i + 1) for i in range(400)], "recipe.epochs": list(range(1, 400))}, "at most 100,000"),
    ],
)
def test_a_bad_grid_is_refused_in_one_line(axes: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        parse({"grid": axes})
    assert words in str(error.value)
    assert len(lines(error)) == 1


def test_arguments_that_are_not_numbers_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"model\.kwargs.*nan is not a finite number") as error:
        parse({"model": {"name": "mlp", "kwargs": {"x": float("nan")}}})
    assert len(lines(error)) == 1


def toml(trial: Trial) -> str:
    """A trial as a person would write it out in full."""

    def value(v: Any) -> str:
        if isinstance(v, bool):
            return str(v).lower()
        if isinstance(v, dict):
            return "{" + ", ".join(f'"{k}" = {value(x)}' for k, x in v.items() if x is not None) + "}"
        return "[" + ", ".join(map(value, v)) + "]" if isinstance(v, list) else repr(v)

    text = f"seeds = [{trial.seed}]\n"
    for section, fields in trial.model_dump(mode="json").items():
        if isinstance(fields, dict):
            text += f"[{section}]\n" + "".join(f"{k} = {value(v)}\n" for k, v in fields.items() if v is not None)
    return text


@pytest.mark.parametrize("name", [*presets(), "own"])
def test_a_trial_written_out_in_full_is_the_same_trial(tmp_path: Path, name: str) -> None:
    own = {"model": {"name": "mlp", "kwargs": {"widths": [3, 4]}}, "noise": {"kind": "asymmetric", "map": {"1": 2}}}
    trial = Trial.model_validate(own) if name == "own" else preset(name)
    study = load(write(tmp_path, toml(trial)))
    assert study.trials == (trial,)
    assert study.trials[0].digest() == trial.digest()


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_study_with_a_line_about_itself(name: str) -> None:
    assert load(f"preset:{name}").trials
    assert len(presets()[name]) > 20
    assert tomllib.loads(preset_text(name))["name"]


SCALED = (
    BASE
    + """
[model]
name = "mlp"
kwargs = {widths = [300, 100]}
[grid]
"noise.rate" = [0.2, 0.4]
[scales.small]
seeds = [0]
recipe.epochs = 1
"pruning.levels" = 2
grid."noise.rate" = [0.3]
[scales.small.model.kwargs]
widths = [8]
"""
)


@pytest.fixture
def scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of presets of our own."""
    monkeypatch.setattr("prunephase.study.resources.files", lambda _: tmp_path)
    write(tmp_path, "# a preset of our own, for tests\n" + SCALED, "own.toml")
    write(tmp_path, '# one that builds on it\nextends = "preset:own"\n[recipe]\nlr = 0.5\n', "child.toml")
    write(tmp_path, '# one that begins small\nextends = "preset:own:small"\nseeds = [4]\n', "begun.toml")
    write(tmp_path, '# a loop\nextends = "preset:loop:small"\n[scales.small]\nseeds = [4]\n', "loop.toml")
    return tmp_path


def test_a_scale_changes_what_it_names_and_nothing_else(scaled: Path) -> None:
    assert scaled.is_dir()
    full, small = load("preset:own"), load("preset:own:small")
    assert rates(full) == [(0.2, 0), (0.2, 1), (0.4, 0), (0.4, 1)]
    (only,) = small.trials
    assert (only.noise.rate, only.seed, only.recipe.epochs, only.pruning.levels) == (0.3, 0, 1, 2)
    assert (only.model.kwargs, only.recipe.lr) == ({"widths": [8]}, 0.05)
    assert preset("own:small") == only.model_copy(update={"noise": only.noise.model_copy(update={"rate": 0.2})})


def test_a_scale_is_inherited_and_a_file_may_begin_from_it(scaled: Path) -> None:
    (child,) = load("preset:child:small").trials
    assert (child.recipe.lr, child.recipe.epochs) == (0.5, 1)
    (begun,) = load("preset:begun").trials
    assert (begun.recipe.epochs, begun.seed) == (1, 4)
    (own,) = load(write(scaled, 'extends = "preset:own:small"\n[recipe]\nlr = 0.7\n')).trials
    assert (own.recipe.lr, own.recipe.epochs) == (0.7, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [("own:large", "one of: small"), ("begun:small", "only the full one"), ("loop", "extends itself")],
)
def test_a_scale_that_cannot_be_taken_is_refused_in_one_line(scaled: Path, name: str, words: str) -> None:
    assert scaled.is_dir()
    with pytest.raises(UserError, match=words) as error:
        load(f"preset:{name}")
    assert len(lines(error)) == 1


def test_a_preset_is_written_out_with_all_that_it_inherits(scaled: Path) -> None:
    for name in ("child", "child:small", "own"):
        text = preset_text(name)
        assert load(write(scaled, text)) == load(f"preset:{name}")
        assert text.startswith("# ")
        assert "extends =" not in text
    assert "preset:child:small" in preset_text("child")


def test_scales_that_are_no_tables_are_refused() -> None:
    with pytest.raises(UserError, match="scales"):
        parse({"scales": {"small": 3}})


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'he2022-mnist'") as error:
        preset("he2022-mnits")
    assert len(lines(error)) == 1


def test_a_studys_digest_is_that_of_its_trials_whatever_their_order_and_name() -> None:
    a, b = (parse({"seeds": seeds, "name": name}) for seeds, name in (([0, 1], "a"), ([1, 0], "b")))
    assert a.digest() == b.digest() != parse({"seeds": [0, 2]}).digest()


def test_a_grid_in_python_is_the_same_as_in_a_file() -> None:
    base = Trial.model_validate({"noise": {"kind": "pairflip"}})
    ours = grid(base, noise__rate=[0.1, 0.4], model={"name": "mlp", "kwargs": {"widths": [3]}}, seed=range(2))
    fields = {"noise": {"kind": "pairflip"}, "model": {"name": "mlp", "kwargs": {"widths": [3]}}, "seeds": [0, 1]}
    assert tuple(ours) == parse({**fields, "grid": {"noise.rate": [0.1, 0.4]}}).trials


def test_a_bad_grid_in_python_is_a_user_error() -> None:
    for axes in ({"noise__rtae": [1]}, {"recipe__lr": [0.1, "x"]}, {"seed": [0, 0]}, {"sed": 3}):
        with pytest.raises(UserError) as error:
            grid(Trial(), **axes)
        assert len(lines(error)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = [", "not a TOML file"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"a = " + b"[" * 50 + b"]" * 50, "nested more than 16 deep"),
        (b"a = " + b"[" * 5_000 + b"]" * 5_000, "nested too deeply"),
        (b"#" * 1_000_001, "more than 1,000,000"),
        (b"extends = 3", "extends = 3"),
        (b'extends = "nowhere.toml"', "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_study_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(UserError) as error:
        load(tmp_path / "study.toml")
    assert words in str(error.value)
    assert len(lines(error)) == 1


def test_a_folder_or_a_missing_file_is_refused_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, words in (
        (".", "is a folder"),
        ("none.toml", "cannot be read"),
        ("demo", "preset:demo"),
        ("\0", "cannot"),
    ):
        with pytest.raises(UserError, match=words) as error:
            load(path)
        assert len(lines(error)) == 1


ARMS = """
[arms.none]
[arms.l2]
recipe.weight_decay = 1e-3
[arms.distil]
"antidote" = {kind = "distill", teacher = "dense"}
recipe.decay_by = {"*.bias" = 0.5}
"""


def test_each_arm_is_combined_with_the_grid_and_the_seeds_and_comes_last(tmp_path: Path) -> None:
    study = load(write(tmp_path, BASE + '[grid]\n"noise.rate" = [0.1, 0.4]\n' + ARMS))
    found = [(arm, t.noise.rate, t.seed) for arm, t in zip(study.arms, study.trials, strict=True)]
    assert found == [(arm, r, s) for arm in ("none", "l2", "distil") for r in (0.1, 0.4) for s in (0, 1)]
    assert [t.recipe.weight_decay for t in study.trials] == [0.0] * 4 + [1e-3] * 4 + [0.0] * 4
    assert {t.antidote.teacher for t in study.trials[-4:]} == {"dense"}
    assert study.trials[-1].recipe.decay_by == {"*.bias": 0.5}
    decayed = load(tmp_path / "study.toml", ["recipe.weight_decay=0.1", "recipe.lr=0.2"])
    assert [t.recipe.weight_decay for t in decayed.trials] == [0.1] * 4 + [1e-3] * 4 + [0.1] * 4
    assert {t.recipe.lr for t in decayed.trials} == {0.2}
    longer = load(tmp_path / "study.toml", ["arms.l2.recipe.epochs=9"])
    assert [t.recipe.epochs for t in longer.trials] == [3] * 4 + [9] * 4 + [3] * 4


def test_an_arm_is_no_part_of_a_trial(tmp_path: Path) -> None:
    plain, named = load(write(tmp_path, BASE)), load(write(tmp_path, BASE + "[arms.none]", "named.toml"))
    assert plain.trials == named.trials
    assert plain.digest() == named.digest()
    assert (plain.arms, named.arms) == ((), ("none", "none"))


def test_a_shard_keeps_the_arms_of_its_trials(tmp_path: Path) -> None:
    whole = load(write(tmp_path, BASE + ARMS))
    arm_of = {t.digest(): arm for t, arm in zip(whole.trials, whole.arms, strict=True)}
    parts = [whole.shard(i, 3) for i in (1, 2, 3)]
    assert sum(len(part.trials) for part in parts) == len(whole.trials)
    for part in parts:
        assert part.arms == tuple(arm_of[trial.digest()] for trial in part.trials)


def test_arms_are_inherited_scaled_and_written_out(scaled: Path) -> None:
    write(
        scaled,
        '# with arms\nextends = "preset:own"\n' + ARMS + "[scales.small.arms.l2]\nrecipe.lr = 0.9\n",
        "arms.toml",
    )
    assert preset("arms") == preset("own")
    for name in ("arms", "arms:small"):
        study = load(write(scaled, preset_text(name), "written.toml"))
        assert study == load(f"preset:{name}")
        assert set(study.arms) == {"none", "l2", "distil"}
    assert {t.recipe.lr for arm, t in zip(study.arms, study.trials, strict=True) if arm == "l2"} == {0.9}


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"l2": 3}, "expected tables of changed fields"),
        ([1], "expected tables of changed fields"),
        (
            {"l2": {"recipe.weigth_decay": 1}},
            "arms.l2: recipe.weigth_decay: unknown field; did you mean 'weight_decay'?",
        ),
        ({"l2": {"recipe": {"lr": -1}}}, "arms.l2: recipe.lr = -1: "),
        ({"l2": {"nosie.rate": 0.2}}, "did you mean 'noise'?"),
        ({"l2": {"seed": 3}}, "write seeds"),
        ({"none": {}, "l2": {}}, "same trial"),
        ({"a\nb": {}}, "expected a name"),
        ({"": {}}, "expected a name"),
        ({"x" * 41: {}}, "expected a name"),
        ({str(i): {} for i in range(100_001)}, "at most 100,000"),
    ],
)
def test_a_bad_arm_is_refused_in_one_line(arms: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        parse({"arms": arms})
    assert words in str(error.value)
    assert len(lines(error)) == 1


def test_a_fault_of_the_base_is_told_once_whatever_the_arms() -> None:
    with pytest.raises(UserError) as error:
        parse({"recipe": {"lr": -1}, "arms": {"none": {}, "l2": {"recipe.weight_decay": -1}}})
    assert [line.partition(" =")[0] for line in lines(error)] == [
        "study: recipe.lr",
        "study: arms.l2: recipe.weight_decay",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [("arms.l2.recipe.lrr=1", "did you mean 'lr'?"), ("arms=3", "expected tables"), ("arms.new={}", "same trial")],
)
def test_a_bad_set_of_an_arm_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        load(write(tmp_path, BASE + ARMS), [text])
    assert words in str(error.value)
    assert len(lines(error)) == 1


def test_one_arm_of_a_study_is_a_study_without_arms() -> None:
    whole = parse({"seeds": [0, 1], "arms": {"none": {}, "l2": {"recipe.weight_decay": 0.01}}})
    alone = whole.only("l2")
    assert alone.trials == whole.trials[2:]
    assert alone.arms == ()
    with pytest.raises(UserError, match=r"--arm 'l22': no such arm in 'study'; did you mean 'l2'"):
        whole.only("l22")
    with pytest.raises(UserError, match="the study has no arms"):
        alone.only("l2")
