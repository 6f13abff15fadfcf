"""Side by side: exported folders and finished levels, with accuracy, size, latency, noise and phase."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunephase import disk, table
from prunephase.errors import UserError
from prunephase.exports.card import FORMAT, origin
from prunephase.exports.choose import choose
from prunephase.store import Store
from prunephase.study import Study

Card = Mapping[str, Any]
EXPECTED = "expected an exported folder, or STUDY:LEVEL such as study.toml:best"


def card_of(name: str, store: Path, load: Callable[[str], Study]) -> dict[str, Any]:
    """The card of an exported folder, or of a level that was not exported: STUDY:LEVEL, LEVEL as `choose` has it.

    load: reads a study file. Raises UserError where there is neither.
    """
    if Path(name).is_dir():
        return _read(Path(name))
    study_file, colon, level = name.rpartition(":")
    if not colon or study_file == "preset":
        raise UserError(f"{name}: no such folder; {EXPECTED}")
    study, place = load(study_file), Store(store)
    rows = table.levels(place, study.trials, study.arms)
    if rows.is_empty():
        raise UserError(f"{store}: holds no finished level of '{study.name}'; run it first, or name its --store")
    choice = choose(rows, level, None, table.cards(place, study.trials), force=True)
    trial = next(trial for trial in study.trials if trial.digest() == choice.trial)
    return origin(study, place, trial, choice)


def _read(folder: Path) -> dict[str, Any]:
    data = disk.read(folder / "card.json")
    try:
        card = json.loads(data or b"")
        if card["format"] != FORMAT:
            raise UserError(f"{folder}/card.json: format {card['format']}; this version reads format {FORMAT}")
        summary("", card)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise UserError(f"{folder}: holds no card.json of `prunephase export`; {EXPECTED}") from None
    return card  # type: ignore[no-any-return]


def summary(name: str, card: Card) -> dict[str, Any]:
    """What is compared, as plain JSON values: shares in [0, 1], bytes, milliseconds; None where it was not measured.

    test: mean over the seeds with interval, n and the value of the seed that was taken. bytes: of the weights, by form;
    milliseconds: {form: {batch: [median, lower quartile, upper quartile]}}.
    """
    noise, test = card["noise"], card["accuracy"]["test"]
    times: dict[str, dict[str, list[float]]] = {}
    for row in card.get("latency") or []:
        spread = [float(row[part]) for part in ("median", "low", "high")]
        times.setdefault(str(row["form"]), {})[str(row["batch"])] = spread
    files = {str(form["path"]): int(form["bytes"]) for form in card.get("forms", [])}
    return {
        "name": name,
        "study": str(card["study"]),
        "model": str(card["model"]["name"]),
        "data": str(card["data"]["source"]),
        "level": int(card["choice"]["level"]),
        "seed": int(card["choice"]["seed"]),
        "split": str(card["choice"]["split"]),
        "sparsity": float(card["sparsity"]),
        "surviving": int(card["surviving"]),
        "test": None if test is None else {key: test[key] for key in ("mean", "interval", "n", "this_seed")},
        "noise": {
            "kind": str(noise["kind"]),
            "nominal": None if noise["nominal"] is None else float(noise["nominal"]),
            "realised": float(noise["train"]["realised"]),
        },
        "phase": str(card["phase"]["phase"]),
        "verdict": str(card["phase"]["verdict"]),
        "bytes": {path.partition("/")[0]: size for path, size in files.items() if path.endswith("/model.safetensors")},
        "milliseconds": times,
        "machine": card.get("machine"),
    }


def apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What keeps these from being compared as they stand, a sentence each."""
    said = []
    if len({row["data"] for row in rows}) > 1:
        said.append("They were tested on different data: their accuracies do not compare.")
    if len({json.dumps(row["machine"], sort_keys=True) for row in rows if row["machine"]}) > 1:
        said.append("They were timed on different machines or threads: their times do not compare.")
    return said
