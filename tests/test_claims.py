"""Claims: the judges against curves whose truth is planted, the plans that come with the program, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from prunephase import claims, cli, runs
from prunephase.analysis import Group
from prunephase.claims.evidence import QUANTITIES, Evidence
from prunephase.claims.judge import TESTS, Found, verdict
from prunephase.claims.plan import Claim, Plan
from prunephase.errors import UserError

LEVELS = np.arange(21)
SPARSITY = 1 - 0.8**LEVELS
SEEDS = 5


def curve(dip: int = 10, depth: float = 0.06, peak: float = 0.95, seeds: int = SEEDS, noise: float = 0.003) -> Group:
    """Flat at 85 %, a dip, a peak five levels later, then a fall; seeds scatter a little."""
    centre = np.interp(LEVELS, [0, max(dip - 4, 0), dip, dip + 5, 20], [0.85, 0.85, 0.85 - depth, peak, peak - 0.1])
    train = np.interp(LEVELS, [0, dip - 2, dip, dip + 5, 20], [1.0, 1.0, 0.95, 0.8, 0.7])
    draw = np.random.default_rng([dip, round(1000 * peak)])
    scatter = noise * draw.standard_normal((seeds, len(LEVELS)))
    return Group({}, LEVELS, SPARSITY, centre + scatter, train + scatter / 10, tuple(range(seeds)))


def flat(noise: float = 0.003) -> Group:
    centre = np.interp(LEVELS, [0, 14, 20], [0.95, 0.95, 0.7])
    scatter = noise * np.random.default_rng(1).standard_normal((SEEDS, len(LEVELS)))
    return Group({}, LEVELS, SPARSITY, centre + scatter, None, tuple(range(SEEDS)))


def seen(group: Group) -> Evidence:
    return Evidence(group, group, 1.0)


def claim(test: str, quantity: str | None = None, least: float = 0.01, studies: int = 1, **more: float) -> Claim:
    names = tuple(f"study{i}" for i in range(studies))
    return Claim(id="x", says="-", place="-", test=test, quantity=quantity, studies=names, least=least, **more)


def ask(groups: Sequence[Group], test: str, quantity: str | None = None, least: float = 0.01, **more: float) -> str:
    asked = claim(test, quantity, least, len(groups), **more)
    found = TESTS[test]([seen(g) for g in groups], asked)
    return verdict(found, found.p, least, 0.05)


def test_a_planted_dip_is_reproduced_and_a_flat_curve_is_not() -> None:
    assert ask([curve()], "dip") == "reproduced"
    assert ask([flat()], "dip") == "not reproduced"
    assert ask([flat()], "no dip") == "reproduced"
    assert ask([curve()], "no dip") == "not reproduced"


def test_a_dip_too_shallow_to_matter_is_not_reproduced_however_certain() -> None:
    shallow = curve(depth=0.004, noise=0.0005)
    assert seen(shallow).phases.verdict == "present"
    assert ask([shallow], "dip") == "not reproduced"
    assert ask([shallow], "no dip") == "reproduced"


def test_two_seeds_are_never_enough() -> None:
    for test in ("dip", "no dip"):
        assert ask([curve(seeds=2)], test) == "underpowered"


def test_seeds_that_scatter_too_much_are_underpowered() -> None:
    assert ask([curve(depth=0.02, peak=0.87, noise=0.06)], "dip") == "underpowered"


def test_a_dip_that_moves_is_seen_to_move_and_one_that_stays_is_not() -> None:
    moving = [curve(dip=12), curve(dip=9), curve(dip=6)]
    assert ask(moving, "falls", "dip level", 1.0) == "reproduced"
    assert ask(moving[::-1], "rises", "dip level", 1.0) == "reproduced"
    assert ask(moving, "rises", "dip level", 1.0) == "not reproduced"
    assert ask([curve(dip=12), curve(dip=12)], "falls", "dip level", 1.0) == "not reproduced"


def test_all_steps_of_an_order_must_hold() -> None:
    assert ask([curve(dip=12), curve(dip=9), curve(dip=9)], "falls", "efficacy", 1.0) == "not reproduced"
    assert ask([curve(peak=0.97), curve(peak=0.94), curve(peak=0.90)], "falls", "peak accuracy") == "reproduced"


def test_a_step_that_is_surely_not_there_decides_though_another_is_uncertain() -> None:
    first, second = curve(dip=10, noise=0.04), curve(dip=11, peak=0.94, noise=0.04)
    scatter = 1e-4 * np.random.default_rng(5).standard_normal(second.test.shape)
    third = Group({}, LEVELS, SPARSITY, second.test + 0.005 + scatter, None, second.seeds)
    assert ask([second, third], "falls", "peak accuracy") == "not reproduced"
    assert ask([first, second], "falls", "peak accuracy") == "underpowered"
    assert ask([first, second, third], "falls", "peak accuracy") == "not reproduced"


def test_efficacy_and_threshold_follow_train_accuracy() -> None:
    for quantity in ("efficacy", "threshold"):
        assert ask([curve(dip=12), curve(dip=10), curve(dip=8)], "falls", quantity, 1.0) == "reproduced"


def test_levels_that_agree_in_all_seeds_are_not_infinitely_certain() -> None:
    found = TESTS["falls"](
        [seen(curve(dip=12, noise=1e-5)), seen(curve(dip=9, noise=1e-5))], claim("falls", "dip level", studies=2)
    )
    assert found.effect == pytest.approx(3.0)
    assert found.p == pytest.approx(2 * stats.t.sf(3 / ((1 / 6) ** 0.5 / SEEDS**0.5), SEEDS - 1))


def test_the_share_of_train_accuracy_must_lie_within_with_its_whole_interval() -> None:
    assert ask([curve()], "within", "train accuracy at dip", low=0.92, high=0.98) == "reproduced"
    assert ask([curve()], "within", "train accuracy at dip", low=0.96, high=0.98) == "not reproduced"
    wide = curve()
    wide.train[:, 10] += np.linspace(-0.2, 0.2, SEEDS)
    assert ask([wide], "within", "train accuracy at dip", low=0.92, high=0.98) == "underpowered"


def test_a_best_epoch_without_a_dip_spares_it() -> None:
    last = curve()
    level = Group({}, LEVELS, SPARSITY, np.full_like(last.test, 0.95), None, last.seeds)
    spared = TESTS["positive"]([Evidence(last, level, 1.0)], claim("positive", "depth spared at best epoch"))
    assert spared.effect == pytest.approx(0.06, abs=0.01)
    nothing = TESTS["positive"]([seen(last)], claim("positive", "depth spared at best epoch"))
    assert nothing.effect == 0
    assert verdict(nothing, nothing.p, 0.01, 0.05) == "not reproduced"


def test_a_curve_that_beats_the_other_somewhere() -> None:
    ticket, again = curve(dip=12), curve(dip=8)
    assert ask([ticket, again], "beats") == "reproduced"
    worse = Group({}, LEVELS, SPARSITY, ticket.test - 0.05 + again.test / 1e3, None, ticket.seeds)
    assert ask([ticket, worse], "beats") == "not reproduced"
    assert TESTS["beats"]([seen(ticket), seen(worse)], claim("beats", studies=2)).p == 1.0


def test_a_curve_that_rises_at_once_dips_at_its_first_level() -> None:
    rising = np.interp(LEVELS, [0, 10, 20], [0.3, 0.8, 0.5])[None]
    one = Evidence(
        Group({}, LEVELS, SPARSITY, rising, None, (0,)), Group({}, LEVELS, SPARSITY, rising, None, (0,)), 0.0
    )
    assert one.turns.tolist() == [[0.0, 10.0]]


def test_what_early_stopping_gives_up_is_the_peak_less_its_choice() -> None:
    found = TESTS["positive"]([seen(curve())], claim("positive", "forfeited by early stop"))
    assert found.effect == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize(
    ("interval", "p", "effect", "said"),
    [
        ((0.02, 0.06), 0.01, 0.04, "reproduced"),
        ((-0.01, 0.06), 0.2, 0.03, "underpowered"),
        ((0.001, 0.06), 0.2, 0.03, "underpowered"),  # Holm leaves too little
        ((0.001, 0.008), 0.01, 0.004, "not reproduced"),  # certain, but too small to matter
        ((-0.06, -0.02), 0.01, -0.04, "not reproduced"),
        (None, None, 0.04, "underpowered"),
        ((-0.05, 0.03), 0.01, -0.01, "underpowered"),  # p may be another test's, as that of a dip
    ],
)
def test_the_three_verdicts(interval: tuple[float, float] | None, p: float | None, effect: float, said: str) -> None:
    assert verdict(Found(effect, interval, 5, p, "accuracy", ""), p, 0.01, 0.05) == said
    assert verdict(Found(effect, interval, 2, p, "accuracy", ""), p, 0.01, 0.05) in ("underpowered",)


PAPERS = ("he2022", "quest2023", "quetu2024", "seed003", "vit2023")


def test_the_papers_with_a_plan() -> None:
    assert tuple(claims.papers()) == PAPERS
    with pytest.raises(UserError, match="did you mean 'he2022'"):
        claims.load("he202")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_plan_is_whole(paper: str) -> None:
    plan = claims.load(paper)
    ids = [one.id for one in (*plan.claims, *plan.untestable)]
    assert len(set(ids)) == len(ids)
    assert set(plan.scales) == {"small", "reduced"}
    assert set(plan.needed) == set(plan.studies)
    for one in plan.claims:
        assert one.test in TESTS
        assert set(one.studies) <= set(plan.studies)
        assert one.quantity is None or one.quantity in QUANTITIES
        assert (one.quantity is None) == (one.test in ("dip", "no dip", "beats"))
        unit = QUANTITIES[one.quantity][0] if one.quantity else "accuracy"
        assert one.least >= 1 if unit == "levels" else one.least < 0.1
        assert (one.low is not None) == (one.high is not None) == (one.test == "within")
    for scale in plan.scales:
        assert len(plan.whole(scale).trials) == len(plan.studies) * len(plan.seeds)


def test_the_two_plans_on_mnist_share_their_trials() -> None:
    first, second = ({t.digest() for t in claims.load(p).whole("small").trials} for p in ("he2022", "seed003"))
    assert len(first & second) == 25


TINY: dict[str, Any] = {
    "title": "Tiny",
    "source": "nowhere",
    "alpha": 0.05,
    "seeds": [0, 1, 2],
    "scales": {"small": "one epoch"},
    "bases": {
        "digits": {
            "preset": "demo",
            "scales": {"small": {"data.train": 120, "recipe.epochs": 1, "pruning.levels": 3, "pruning.fraction": 0.5}},
        }
    },
    "studies": {"a": {"base": "digits"}, "b": {"base": "digits", "changes": {"pruning.criterion": "random"}}},
    "claims": [
        {"id": "dip", "says": "It dips.", "place": "p. 1", "test": "dip", "studies": ["a"], "least": 0.01},
        {"id": "order", "says": "It falls.", "place": "p. 2", "test": "falls", "quantity": "peak accuracy",
         "studies": ["a", "b"], "least": 0.01},
    ],
    "untestable": [{"id": "gpu", "says": "Large.", "place": "p. 3", "why": "takes a GPU"}],
    "history": [{"on": "2026-11-21", "what": "first", "why": "-"}],
}  # fmt: skip


@pytest.fixture
def tiny_plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    plan = Plan.model_validate(TINY)
    monkeypatch.setattr(claims, "load", lambda _: plan)
    return plan


def test_a_check_trains_judges_and_goes_on_where_it_was(
    tiny_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check", "tiny", "--store", str(tmp_path / "runs"), "--workers", "1", "--quiet"]
    assert cli.main([*words, "-o", str(tmp_path / "out.md")]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out.md").read_text() == said
    for part in ("| dip | ", "95 % interval", "| 3 |", "takes a GPU", "1 not testable here", "s of training"):
        assert part in said
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "runs" / "trials").rglob("level-*.json"))
    assert len(before) == 6 * 4
    assert cli.main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in answer["claims"]] == ["dip", "order"]
    assert {one["verdict"] for one in answer["claims"]} <= {"reproduced", "not reproduced", "underpowered"}
    assert answer["not_testable"][0]["why"] == "takes a GPU"
    assert answer["training_seconds"] > 0
    assert (
        sorted((p.name, p.stat().st_mtime_ns) for p in (tmp_path / "runs" / "trials").rglob("level-*.json")) == before
    )
    again = claims.evaluate(tiny_plan, "small", tmp_path / "runs").as_json()["claims"]
    assert json.loads(json.dumps(again)) == answer["claims"]


def test_a_check_of_nothing_trained_says_so(tiny_plan: Plan, tmp_path: Path) -> None:
    result = claims.evaluate(tiny_plan, "small", tmp_path / "empty")
    assert {answer.verdict for answer in result.answers} == {"underpowered"}
    assert "nothing was trained" in claims.text(result)


def test_a_trial_that_fails_costs_its_claims_only_their_power(
    tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = tiny_plan.study("a", "small").trials[:2]
    train: Callable[..., Any] = runs.train
    monkeypatch.setattr(runs, "train", lambda study, *a, **k: train(type(study)(study.name, some), *a, **k))
    result, _ = claims.check(tiny_plan, "small", tmp_path / "runs", workers=1)
    assert [(a.verdict, a.found.n) for a in result.answers] == [("underpowered", 2), ("underpowered", 0)]


@pytest.mark.parametrize(
    "words",
    [
        ["check", "he202"],
        ["check", "he2022", "--scale", "large"],
        ["check", "he2022", "--workers", "0"],
        ["check", "he2022", "-o", "."],
    ],
)
def test_a_wrong_check_leaves_code_2_and_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
