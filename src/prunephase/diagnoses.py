"""Diagnoses: what a finished level can be asked, how each is defined, and where the definition comes from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from prunephase.errors import UserError, nearest
from prunephase.plugins import is_reference


@dataclass(frozen=True)
class Diagnosis:
    """One question to a level. function: module:function, which imports torch; (Snapshot) -> Finding or rows.

    levels: asked at every level, or at those that tell the story (dense, dip, peak, collapsed), where it is dear.
    across: made from what `needs` names has found: of the whole ladder, or of the dense level and another one; function
    then takes these findings. needs: diagnoses that are made before it; uses: those whose findings it takes where they
    are known. version: raised by hand when its meaning changes.
    """

    name: str
    function: str
    title: str
    definition: str
    source: str
    levels: Literal["all", "roles"] = "all"
    across: Literal["ladder", "pair"] | None = None
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    version: int = 1

    @property
    def takes(self) -> tuple[str, ...]:
        """The diagnoses whose findings it is given."""
        return (*self.needs, *self.uses)


_ALL = (
    Diagnosis(
        "redense",
        "prunephase.measure.redense:redense",
        "Re-dense training",
        "Pruned weights are restored at zero and all are trained on, at the last learning rate.",
        "He et al. 2022, appendix A.4",
        levels="roles",
    ),
    Diagnosis(
        "memorisation",
        "prunephase.measure.memorisation:memorisation",
        "What is memorised",
        "Accuracy and mean cross-entropy of the final weights on the training labels, on those drawn anew (permuted), "
        "on those never selected (unpermuted), on the true labels of the permuted examples (restored), and on the test "
        "set; a ledger keeps, bit by bit, which examples are fitted, and what each is said to be.",
        "He et al. 2022 (ICLR submission), section 3.1",
        version=2,  # 2: keeps the class said and the probability of the label given
    ),
    Diagnosis(
        "forgetting",
        "prunephase.measure.memorisation:forgetting",
        "When examples are forgotten",
        "The sparsity from which on no level fits a training example any more (its forgetting sparsity), by subset.",
        "This program's definition; after He et al. 2022 (ICLR submission), section 3.1",
        across="ladder",
        needs=("memorisation",),
    ),
    Diagnosis(
        "changes",
        "prunephase.measure.changes:changes",
        "Prediction changes",
        "Training examples whose predicted class is not that of the level before; at the dense level, all.",
        "After Yuan, Feng and Liu 2024 (Label Wave), who count it from epoch to epoch",
    ),
    Diagnosis(
        "ledger",
        "prunephase.measure.ledger:ledger",
        "The ledger, epoch by epoch",
        "The level is trained once more, and it is noted bit by bit which examples it fits after every epoch; an "
        "example is forgotten where it was fitted after one epoch and is not after the next. Label Wave would end the "
        "training at the first local minimum of the prediction changes between epochs, averaged over two.",
        "Toneva et al. 2019; Yuan, Feng and Liu 2024 (Label Wave)",
        levels="roles",
        version=2,
    ),
    Diagnosis(
        "distance",
        "prunephase.measure.distance:distance",
        "Learning distance",
        "Euclidean distance of the weights of convolutional and linear layers, pruned ones counted as zero, from the "
        "dense initialisation; also from the rewind point, of the surviving weights alone, and the part due to pruned "
        "mass; and of the weights after re-dense training, where that was done.",
        "He et al. 2022, section 3.2",
        uses=("redense",),
    ),
    Diagnosis(
        "entropy",
        "prunephase.measure.entropy:entropy",
        "Activation entropy",
        "Entropy in bits of whether a unit is on (its input to the activation is positive), over the whole training "
        "set; mean over the units of a layer, and over the layers.",
        "Quetu and Tartaglione 2024 (DSD2), equation 2",
    ),
    Diagnosis(
        "calibration",
        "prunephase.measure.calibration:calibration",
        "Calibration",
        "Expected calibration error with 15 bins of equal width, negative log-likelihood and Brier score on the test "
        "set, and accuracy class by class.",
        "Guo et al. 2017; Lei et al. 2023 (CigL)",
    ),
    Diagnosis(
        "harm",
        "prunephase.measure.calibration:harm",
        "Who pays",
        "Change of test accuracy from the dense network to a level, class by class, and the examples whose prediction "
        "turns wrong, turns right or changes.",
        "Hooker et al. 2019",
        across="pair",
        needs=("calibration",),
    ),
    Diagnosis(
        "structure",
        "prunephase.measure.structure:structure",
        "Structure",
        "Density of each layer; units and channels that no surviving path enters or leaves; the sparsity that counts "
        "only weights on a path from input to output (effective) beside the nominal one.",
        "Liao et al. 2024 (NEPENTHE); this program's definition",
    ),
    Diagnosis(
        "histograms",
        "prunephase.measure.histograms:histograms",
        "Weights",
        "Histogram of the surviving weights, in bins common to all levels.",
        "Quetu and Milovanovic 2023 (The Quest), figure of weight histograms",
    ),
    Diagnosis(
        "sharpness",
        "prunephase.measure.sharpness:sharpness",
        "Sharpness",
        "Largest eigenvalue (Lanczos) and trace (Hutchinson) of the Hessian of the training loss with respect to the "
        "surviving weights.",
        "Yao et al. 2020 (PyHessian)",
        levels="roles",
    ),
    Diagnosis(
        "landscape",
        "prunephase.measure.landscape:landscape",
        "Loss landscape",
        "Training loss along one random direction, normalised filter by filter, the same for every level.",
        "Li et al. 2018; He et al. 2022, appendix A.6",
        levels="roles",
        uses=("redense",),
    ),
    Diagnosis(
        "surface",
        "prunephase.measure.landscape:surface",
        "Loss surface",
        "Training loss on a plane of two random directions, normalised filter by filter, the same for every level.",
        "Li et al. 2018",
        levels="roles",
        uses=("redense",),
    ),
    Diagnosis(
        "interpolation",
        "prunephase.measure.interpolation:interpolation",
        "From sparse to re-dense",
        "Loss and accuracy at 101 points of the straight line from the sparse to the re-dense weights.",
        "He et al. 2022, appendix A.5",
        levels="roles",
        needs=("redense",),
    ),
)
DIAGNOSES = {diagnosis.name: diagnosis for diagnosis in _ALL}


def chosen(only: Sequence[str], plugins: Collection[str] = ()) -> list[Diagnosis]:
    """The diagnoses named, with those they need, in an order in which they can be made; none named: all of ours.

    A name module:function is a user's own. Raises UserError for one that is unknown or not allowed.
    """
    found: dict[str, Diagnosis] = {}

    def add(name: str) -> None:
        if is_reference(name):
            module = name.partition(":")[0].split(".")[0]
            if module not in plugins:
                raise UserError(f"--only {name}: names code of yours; allow it with --plugins {module}")
            found[name] = Diagnosis(name, name, name, "A function of your own.", name)
            return
        if name not in DIAGNOSES:
            raise UserError(f"--only {name}: unknown; {nearest(name, DIAGNOSES)}, or your own as module:function")
        for other in DIAGNOSES[name].needs:
            add(other)
        found.setdefault(name, DIAGNOSES[name])

    for name in only or DIAGNOSES:
        add(name)
    places = {name: place for place, name in enumerate(DIAGNOSES)}  # those that others take stand first there
    return sorted(found.values(), key=lambda diagnosis: places.get(diagnosis.name, len(places)))
