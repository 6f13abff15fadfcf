"""Teachers: which finished level teaches a trial, whether it may, and what the trial is trained for with it."""

# N examples, K classes.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunephase import antidotes, models, streams
from prunephase.bench import Bench
from prunephase.engine import Batch, Objective
from prunephase.engine.forward import BATCH
from prunephase.errors import IncompatibleError, UserError
from prunephase.levels import finished, trained_state
from prunephase.measure.passes import forward
from prunephase.plugins import is_reference
from prunephase.randomness import seeded
from prunephase.sections import Model
from prunephase.store import Record, Store
from prunephase.trial import Trial


@dataclass(frozen=True)
class Teacher:
    """A finished level that teaches. head: the record of its trial; chosen_on: what it was chosen by.

    chosen_on: "dense" and "named" are no choice; "validation"; "test (oracle)".
    """

    head: Record
    record: Record
    chosen_on: str

    def as_json(self) -> dict[str, Any]:
        """What a level's record says of its teacher; the seal names it to the last byte."""
        body = self.record.body
        return {"trial": body["trial"], "level": body["level"], "seal": self.record.seal, "chosen_on": self.chosen_on}

    def content(self) -> list[Any]:
        """All that decides what it says."""
        blobs = self.record.body["blobs"]
        return [self.head.body["fields"]["model"], blobs["weights"], blobs["masks"]]


def find(store: Store, trial: Trial) -> Teacher | None:
    """The level that teaches `trial`; None where nobody does. Raises UserError where it is not finished."""
    source, named = trial.teacher_trial(), trial.antidote.stored
    if not trial.antidote.teaches:
        return None
    if source is None:
        assert named is not None
        head, record = store.record(named[0]), store.record(*named)
        if head is None or record is None or record.body["status"] != "ok":
            raise UserError(
                f"antidote.teacher = '{trial.antidote.teacher}': the store holds no such finished level; "
                "`prunephase table` lists trials and levels"
            )
        return Teacher(head, record, "named")
    head = store.record(source.digest())
    if trial.antidote.teacher == "dense":
        record, chosen_on = finished(store, source, 0), "dense"
    else:
        split = "validation" if trial.antidote.teacher == "sparse" else "test"
        record, chosen_on = best(store, source, split), split if split == "validation" else "test (oracle)"
    assert head is not None
    return Teacher(head, record, chosen_on)


def best(store: Store, trial: Trial, split: str) -> Record:
    """The sparse level with the highest last-epoch accuracy on `split`; of equal ones the sparsest."""
    if store.missing(trial):
        raise UserError(f"trial {trial.digest()}: its ladder, from which a teacher is chosen, was not finished")
    sparse = [record for record in store.levels(trial) if record.body["level"] and record.body["status"] == "ok"]
    if not sparse:
        raise UserError(f"trial {trial.digest()}: no sparse level of it could be trained, so none can teach")
    return max(sparse, key=lambda r: (r.body["epochs"][f"{split}_accuracy"][-1], r.body["level"]))


def check(store: Store, bench: Bench) -> None:
    """Raise UserError where the trial of `bench` names a teacher that cannot teach it, or code that gives no loss."""
    if bench.trial.antidote.teaches and bench.trial.antidote.stored is not None:
        _suits(find(store, bench.trial), bench)
    if is_reference(bench.trial.antidote.kind):
        network, train = bench.network().train(), bench.data.train
        few = torch.arange(min(bench.trial.recipe.batch_size, len(train)), device=bench.device)
        batch = Batch(network, train.inputs[few], train.labels[few], few)
        with seeded(0):
            antidotes.check(_practice(bench, network), bench.site.plugins, batch)


def same(record: Record, teacher: Teacher | None) -> None:
    """Refuse to go on from a level that had another teacher."""
    had, now = record.body.get("teacher"), teacher and teacher.as_json()
    if had is not None and had != now:
        raise IncompatibleError(
            f"trial {record.body['trial']}: level {record.body['level']} was taught by another level than would teach "
            "the next one now; restore the teacher, or use another --store"
        )


def objective(store: Store, bench: Bench, network: nn.Module, teacher: Teacher | None) -> Objective:
    """What a level of the trial of `bench` is trained for; network: the level's, with the weights that it starts from.

    Raises UserError where the teacher saw other data or another noise pattern, and is not forced.
    """
    voice = None
    if teacher is not None:
        _suits(teacher, bench)
        voice = _voice(revived(store, bench, teacher), bench)
    given = antidotes.Given(bench.trial.antidote, network, len(bench.data.train), voice)
    return antidotes.objective(given, bench.site.plugins)


def rehearsal(bench: Bench, network: nn.Module) -> Objective:
    """An objective that costs the same, with a stranger for a teacher that may not be trained yet."""
    return antidotes.objective(_practice(bench, network), bench.site.plugins)


def _practice(bench: Bench, network: nn.Module) -> antidotes.Given:
    spec, trial = bench.trial.antidote, bench.trial
    voice: antidotes.Asked | antidotes.Remembered | None = None
    if spec.teaches and trial.recipe.augment:
        found = find(Store(bench.site.store), trial) if spec.stored is not None else None
        stranger = _network(bench, spec.teacher_model or trial.model)
        voice = antidotes.Asked(stranger if found is None else revived(Store(bench.site.store), bench, found))
    elif spec.teaches:
        data = bench.data
        voice = antidotes.Remembered(torch.zeros(len(data.train), len(data.classes), device=bench.device))
    return antidotes.Given(spec, network, len(bench.data.train), voice)


def revived(store: Store, bench: Bench, teacher: Teacher) -> nn.Module:
    """The teacher's network on the device, in evaluation mode and without gradients."""
    network = _network(bench, Model.model_validate(teacher.head.body["fields"]["model"]))
    network.load_state_dict(trained_state(store, teacher.record)[1])
    return network


def _network(bench: Bench, spec: Model) -> nn.Module:
    data = bench.noisy[0]
    place = (spec, data.input_shape, len(data.classes), bench.trial.seed)
    network = models.build(*place, plugins=bench.site.plugins, dtype=data.dtype).to(bench.device).eval()
    if any(isinstance(module, nn.Conv2d) for module in network.modules()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.requires_grad_(False)


def _voice(network: nn.Module, bench: Bench) -> antidotes.Asked | antidotes.Remembered:
    """What the teacher says: once for all examples where they are always the same, else of every batch."""
    recipe, split = bench.trial.recipe, bench.data.train
    if recipe.augment:
        return antidotes.Asked(network)
    parts = split.inputs.split(BATCH)  # type: ignore[no-untyped-call]
    with seeded(streams.seed(0, "dropout", "evaluate")), torch.no_grad():
        said: list[Tensor] = [forward(network, inputs, recipe.precision).float() for inputs in parts]
    return antidotes.Remembered(torch.cat(said))


def _suits(teacher: Teacher | None, bench: Bench) -> None:
    """Raise UserError where the teacher saw other data, or labels wrong in another pattern, than its student."""
    assert teacher is not None
    head, (data, card) = teacher.head.body, bench.noisy
    say = f"antidote.teacher: trial {head['trial']}"
    was, shape, classes = head["data"], list(data.input_shape), list(data.classes)
    if was["shape"] != shape or len(was["classes"]) != len(classes):
        raise UserError(
            f"{say} knows examples {was['shape']} of {len(was['classes'])} classes, but these are {shape} of "
            f"{len(classes)}; name another teacher"
        )
    if bench.trial.antidote.teacher_force:
        return
    theirs, ours = (
        {name: value for name, value in fields["data"].items() if name != "path"}
        for fields in (head["fields"], bench.trial.canonical())
    )
    if was["fingerprint"] != data.fingerprint or was["classes"] != classes or theirs != ours:
        raise UserError(f"{say} was trained on other data; name a teacher of these, or set antidote.teacher_force")
    pattern = head["noise"]["train"]["labels_sha256"]
    if pattern != card.as_json()["train"]["labels_sha256"]:
        raise UserError(
            f"{say} was trained on other wrong labels (another noise pattern); name a teacher of this one, fix "
            "noise.seed, or set antidote.teacher_force"
        )
