"""Re-dense training: what a sparse network becomes when its pruned weights come back."""

from __future__ import annotations

import copy

import torch

from prunephase import streams
from prunephase.engine import Diverged, Job, guesses, rates, team
from prunephase.measure.accuracy import accuracy
from prunephase.measure.finding import Finding
from prunephase.randomness import seeded
from prunephase.snapshot import Snapshot
from prunephase.trial import steps_per_epoch


def redense(snapshot: Snapshot, *, epochs: int | None = None, lr: float | None = None) -> Finding:
    """Give the pruned weights back at zero and train all weights on (He et al. 2022, A.4).

    epochs: default those of the recipe; lr: constant, default the last of the recipe's schedule. Everything else of the
    recipe stays, the objective is cross-entropy. It starts from the trained sparse network itself, not, as the paper's
    code does, from the sparse training repeated; the optimiser starts afresh (their code keeps a momentum for weights
    that were pruned). The draws go on where those of the level ended, as epochs T+1, T+2, ... of its T, so a longer
    training begins with the shorter one. The fastest engine for dense networks is used.

    Rows: "epoch 0", the sparse network, to the last epoch (epoch, lr, running_loss, and the METRICS: losses and
    accuracies by split and subset), and "network": those of the last epoch, what each accuracy gained since epoch 0
    (`train_accuracy_gain`, ...), and diverged, which ends it: then there is no last epoch. arrays: the state_dict
    after the last epoch, by name, to be handed to other diagnoses as `Snapshot.redense`; none where it diverged.
    """
    recipe, data = snapshot.trial.recipe, snapshot.data
    more = recipe.epochs if epochs is None else epochs
    rate = rates(recipe)[-1] if lr is None else lr
    network = copy.deepcopy(snapshot.network)
    job = Job(
        *(network, data, recipe.model_copy(update={"epochs": recipe.epochs + more}), snapshot.trial.seed),
        *(snapshot.level, {name: torch.ones_like(mask) for name, mask in snapshot.masks.items()}),
        begin=recipe.epochs * steps_per_epoch(len(data.train), recipe.batch_size),
        lr=rate,
    )
    start = accuracy(guesses(network, data, recipe.precision), data)
    rows: list[dict[str, str | int | float | bool | None]] = [
        {"part": "epoch 0", "epoch": 0, "lr": None, "running_loss": None, **start}
    ]
    diverged = False
    # The engine looks at networks before it trains them; one may draw whenever it is called.
    with seeded(streams.seed(snapshot.trial.seed, "analysis", "redense", snapshot.level)):
        trained = team([job])
        for (moment,) in trained.moments():
            said = None if isinstance(moment, Diverged) else accuracy(trained.guesses()[0], data)
            if isinstance(moment, Diverged) or said is None or said["train_loss"] is None:
                diverged = True
                break
            at = {"epoch": moment.epoch - recipe.epochs, "lr": moment.lr, "running_loss": moment.running_loss}
            rows.append({"part": f"epoch {at['epoch']}", **at, **said})
    end = dict.fromkeys(rows[0]) if diverged else rows[-1]
    gains = {f"{name}_gain": _gain(start[name], end[name]) for name in start if name.endswith("accuracy")}
    headline = {**end, **gains, "part": "network", "epochs": more, "lr": rate, "diverged": diverged}
    headline |= {"strategy": trained.strategy}
    del headline["epoch"]
    if diverged:
        return Finding([headline, *rows])
    weights = {name: w.detach().cpu().contiguous().numpy() for name, w in network.state_dict().items()}
    return Finding([headline, *rows], weights)


def _gain(start: object, end: object) -> float | None:
    return end - start if isinstance(start, float) and isinstance(end, float) else None
