"""The bundle: one level as a folder that others can load: every form, each checked, measured figures, and the card."""

from __future__ import annotations

import copy
import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunephase import __version__, disk, models, revive, table
from prunephase.bench import Bench, Site
from prunephase.data import Dataset
from prunephase.errors import UserError
from prunephase.exports import forms, measured, page, reader
from prunephase.exports.card import origin
from prunephase.exports.choose import choose
from prunephase.exports.compact import Compacted, compact
from prunephase.exports.forms import CLOSE, Form, Model, NotWritten, Run, logits, put
from prunephase.exports.latency import compressed, latencies, machine
from prunephase.exports.source import source
from prunephase.plugins import is_reference
from prunephase.reports.page import static
from prunephase.snapshot import Snapshot
from prunephase.stopping import view
from prunephase.study import Study
from prunephase.trial import Trial

CARD = "card.json"
COMPARED = 256  # test inputs on which every form must say the same


@dataclass(frozen=True)
class Exported:
    """A folder that was written. card: what its card.json holds."""

    folder: Path
    card: dict[str, Any]

    @property
    def sentence(self) -> str:
        """What got smaller and what did not."""
        return str(self.card["sentence"])


def export(
    study: Study | Iterable[Trial],
    output: str | Path = "model",
    store: str | Path = "runs",
    level: str | int = "best",
    seed: int | None = None,
    *,
    force: bool = False,
    latency: bool = True,
    plugins: Collection[str] = (),
    name: str = "study",
    tell: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write one level of one seed of a study (or of some trials, called `name`) as a folder that others can use.

    level, seed: as `choose` has them; force: also a collapsed level, and in place of a folder exported before. Every
    form is read back and compared with the network on test inputs; the folder appears complete or not at all. tell:
    hears what is being done. Raises UserError, StorageError, PrunephaseError where a form says something else than the
    network.
    """
    whole = study if isinstance(study, Study) else Study(name, tuple(study))
    place, folder = view(store, whole), Path(os.path.abspath(output))
    free(folder, force)
    rows = table.levels(place, whole.trials, whole.arms)
    if rows.is_empty():
        raise UserError(f"{store}: holds no finished level of '{whole.name}'; run it first, or name its store")
    choice = choose(rows, str(level), seed, table.cards(place, whole.trials), force=force)
    trial = next(trial for trial in whole.trials if trial.digest() == choice.trial)
    tell(f"level {choice.level}, seed {choice.seed}")
    bench = Bench(trial, Site(place.folder, plugins=frozenset(plugins)))
    taken, dense = (revive.snapshot(place, trial, at, bench) for at in (choice.level, 0))
    card = {"made_by": f"prunephase {__version__}", "made": time.strftime("%Y-%m-%d")} | origin(
        whole, place, trial, choice
    )
    card["input"] = measured.inputs(taken.data)
    with appearing(folder, force) as part:
        model = _model(taken, bench, card)
        if not is_reference(trial.model.name):
            put(part / "dense" / "model.py", _source(trial, taken.data).encode())
        found = every_form(part, model, tell)
        tell("measuring")
        card |= {
            "weights": measured.weights(taken, found.compacted.network),
            "measured": measured.classes(taken, dense),
            "probe": measured.probe(taken.network, taken.data.input_shape),
            "cost": measured.cost(place, trial, choice.level, plugins),
            "compact": {side: getattr(found.compacted, side) for side in ("before", "after", "kept")},
            "forms": [vars(form) | measured.file(part / form.path) for form in found.forms],
            "missing": found.missing,
            "machine": machine(),
            "latency": [one.as_json() for one in latencies(found.runs, model.inputs)] if latency else None,
        }
        card["sentence"] = page.sentence(card)
        put(part / "curve.svg", static(choice.rows))
        others = sorted(str(p.relative_to(part).as_posix()) for p in part.rglob("*") if p.is_file())
        card["files"] = {path: measured.file(part / path)["sha256"] for path in others}
        put(part / "README.md", page.readme(card).encode())
        card["files"]["README.md"] = measured.file(part / "README.md")["sha256"]
        put(part / CARD, json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return Exported(folder, card)


@dataclass(frozen=True)
class Forms:
    """What was written, why something was not, and what can be timed, by the name of the form."""

    forms: list[Form]
    missing: list[str]
    runs: dict[str, Run]
    compacted: Compacted


def _model(taken: Snapshot, bench: Bench, card: dict[str, Any]) -> Model:
    inputs = taken.data.test.inputs[:COMPARED].contiguous()
    about = {"made_by": card["made_by"], "input": json.dumps(card["input"])}
    network = copy.deepcopy(taken.network).requires_grad_(False)
    return Model(network, taken.masks, lambda: bench.network().eval(), inputs, about)


def _source(trial: Trial, data: Dataset) -> str:
    title = f'"""{trial.model.name}, as prunephase made it; `build()` gives the network. Needs torch alone."""'
    return source(models.FAMILY[trial.model.name], data.input_shape, len(data.classes), trial.model.kwargs, title)


def every_form(folder: Path, model: Model, tell: Callable[[str], None] = lambda _: None) -> Forms:
    """Write every form of a network into `folder`, each read back and compared.

    Raises PrunephaseError where one says something else than the network, OSError.
    """
    put(folder / "sparse" / "read.py", Path(reader.__file__).read_bytes())
    tell("compacting")
    compacted = compact(model.network, model.inputs)
    small = compacted.network.requires_grad_(False)
    wanted = logits(model.network, model.inputs)
    forms.compared("the compacted network", logits(small, model.inputs), wanted, CLOSE)
    pair = {"dense": model, "compact": replace(model, network=small, masks={}, fresh=partial(forms.blank, small))}
    runs: dict[str, Run] = {kind: partial(logits, one.network) for kind, one in pair.items()}
    made, missing = [forms.sparse(folder / "sparse", model)], list[str]()
    for kind, one in pair.items():
        tell(f"writing {kind}/model and reading it back")
        made.append(forms.weights(folder / kind, one))
        try:
            made.append(forms.program(folder / kind, one))
        except NotWritten as problem:
            missing.append(f"{kind}/model.pt2 was not written: {problem}.")
        try:
            form, runs[f"{kind} on onnxruntime"] = forms.onnx(folder / kind, one)
            made.append(form)
        except NotWritten as problem:
            missing.append(f"{kind}/model.onnx was not written: {problem}.")
    rows = compressed(model.network, model.masks)
    if rows is None:
        missing.append("No linear layer was pruned, so there is nothing for compressed sparse rows to do.")
    else:
        forms.compared("the network with compressed sparse rows", logits(rows, model.inputs), wanted, CLOSE)
        runs["dense with CSR linear layers"] = partial(logits, rows)
    return Forms(made, missing, runs, compacted)


def free(output: Path, force: bool) -> None:
    """Raise UserError where `output` stands already, unless `force` and it holds nothing but what was exported."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_symlink() or not output.is_dir() or (any(output.iterdir()) and not (output / CARD).is_file()):
        raise UserError(f"-o {output}: exists and is no exported folder; choose another name")
    if not force:
        raise UserError(f"-o {output}: exists; choose another name, or replace it with --force")
    if others := _others(output):
        raise UserError(f"-o {output}: holds {others[0]}, which was not exported; move it away, or choose another name")


def _others(folder: Path) -> list[str]:
    """Files that no export put into a folder, but for what Python leaves beside its sources."""
    try:
        known = {CARD, *json.loads(disk.read(folder / CARD) or b"{}")["files"]}
    except (ValueError, TypeError, KeyError):
        known = set()
    found = (p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir())
    return sorted(p.as_posix() for p in found if p.as_posix() not in known and "__pycache__" not in p.parts)


@contextmanager
def appearing(output: Path, force: bool) -> Iterator[Path]:
    """A folder that stands under the name `output` when the block has ended, complete, or never; its files are synced.

    What stands there already is replaced, after the block, with `force`. What a killed export left is removed.
    """
    scratch = output.parent / f".{output.name}.part"
    part, old = disk.scratch_name(scratch, "new"), output.parent / f".{output.name}.old-{secrets.token_hex(4)}"
    with disk.refusals(output):
        disk.make_folder(scratch)
        disk.sweep(scratch)
        os.mkdir(part)
        try:
            yield part
            for folder in (part, *(p for p in part.rglob("*") if p.is_dir())):
                disk.sync_folder(folder)
            free(output, force)  # it has been a while
            if output.exists():
                os.rename(output, old)
            os.rename(part, output)
            disk.sync_folder(output.parent)
        finally:
            if old.exists() and not output.exists():  # interrupted between the two
                os.rename(old, output)
            disk.remove(part)
            disk.remove(old)
            with suppress(OSError):  # another export writes beside this one
                scratch.rmdir()
