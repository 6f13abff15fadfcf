"""Advice: which antidote to use, in one sentence, by the rule of docs/antidotes.md."""

from __future__ import annotations

from collections.abc import Sequence

from prunephase.analysis.arms import Arm, Bench

DOUBTS = {
    "lower": "is a loss",
    "not shown": "is less than 2 points either way",
    "underpowered": "may be chance",
}


def sentence(bench: Bench) -> str:
    """Use the arm that validation takes if its test accuracy is shown to be higher; then what becomes of the dip."""
    plain, taken = bench.arms[0], bench.arm(bench.taken)
    if taken is None or taken.chosen is None or plain.chosen is None:
        said = "No antidote can be named: not every arm has a validation accuracy"
    elif taken is plain:
        said = (
            f"Use no antidote: by validation none of {len(bench.arms) - 1} is better than plain training "
            f"({_place(plain)})"
        )
    elif taken.against["chosen"].outcome == "higher":
        said = f"Use {taken.name}: {_place(taken)} against {_place(plain)} without, {_gain(taken, bench)}{_paid(taken)}"
    else:
        said = (
            f"No antidote is shown better than none: validation would take {taken.name} ({_place(taken)} against "
            f"{_place(plain)}), and {_gain(taken, bench)} {DOUBTS[taken.against['chosen'].outcome]}{_paid(taken)}"
        )
    missed = [
        arm.name
        for arm in bench.arms[1:]
        if arm is not taken and "chosen" in arm.against and arm.against["chosen"].outcome == "higher"
    ]
    also = f"; better than none on test are also {_listed(missed)}" if missed else ""
    return f"{said}{also}; {_dips(bench)}."


def _dips(bench: Bench) -> str:
    if bench.plain != "present":
        return f"a dip without antidote is {bench.plain}, so none can be removed"
    held = {
        name: [arm.name for arm in bench.arms[1:] if arm.dip(bench.plain) == name] for name in ("removed", "reduced")
    }
    said = [f"{name} by {_listed(names)}" for name, names in held.items() if names]
    return f"the dip is {' and '.join(said) or 'not shown to be removed or reduced by any'}"


def _place(arm: Arm) -> str:
    assert arm.chosen is not None
    density = 1 - arm.chosen.sparsity
    digits = 1 if density >= 0.005 else 2
    return f"{100 * arm.values['chosen'].mean:.1f} % at {100 * arm.chosen.sparsity:.{digits}f} % sparsity"


def _gain(arm: Arm, bench: Bench) -> str:
    held = arm.against["chosen"]
    within = f"95 % interval {100 * held.interval[0]:.1f} to {100 * held.interval[1]:.1f}, " if held.interval else ""
    chance = (
        f", p = {held.adjusted:.3f} after Holm over {len(bench.arms) - 1} arms" if held.adjusted is not None else ""
    )
    return f"{100 * held.mean:+.1f} points ({within}n = {held.n}{chance})"


def _paid(arm: Arm) -> str:
    ratio = arm.costs.get("with_teacher_forward")
    return f", at {ratio:.1f} times the operations, teachers counted" if ratio is not None else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
