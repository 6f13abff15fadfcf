"""The sections of a trial: data, noise, model, recipe, pruning, restart, antidote. Every field says what it is."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from prunephase import checkpoint
from prunephase.errors import nearest
from prunephase.plugins import is_reference, reference

# Built-in names of the open families. The families live in modules that import torch; a study file is read without it.
SOURCES = ("digits", "mnist", "cifar10", "cifar100", "tiny-imagenet", "npz", "table", "folder")
NOISES = ("none", "uniform-relabel", "symmetric-flip", "asymmetric", "pairflip", "human")
MODELS = ("lenet-300-100", "mlp", "small-cnn", "resnet18", "resnet101", "vgg-like", "vgg16", "vit")
CRITERIA = ("magnitude", "gradient", "random")
# Fields that came later, at the value that means what was done before: left out of the identity, so that it stays.
LATER: dict[str, dict[str, Any]] = {
    "data": {"crop": None},
    "model": {"init": "default", "weights": None, "weights_sha256": None},
    "recipe": {"precision": "float32", "warmup": 0, "augment": [], "decay_by": {}},
    "pruning": {"remask": "none", "steps": [], "parameters": [], "floor": {}},
    "antidote": {
        **dict.fromkeys(("alpha", "beta", "temperature", "strength", "q", "teacher", "teacher_model")),
        "teacher_force": False,
        "kwargs": {},
    },
}
# The fields of each antidote, and what they are where they are left out; below, those of module:function.
ANTIDOTES: dict[str, dict[str, Any]] = {
    "none": {},
    "distill": {"alpha": 0.8, "temperature": 10.0, "teacher": "sparse", "teacher_model": None, "teacher_force": False},
    "tether": {"strength": 0.01},
    "label-smoothing": {"strength": 0.1},
    "gce": {"q": 0.7},
    "sce": {"alpha": 0.1, "beta": 1.0},
    "elr": {"strength": 3.0, "beta": 0.7},
}
OWN_ANTIDOTE: dict[str, Any] = {"kwargs": {}, "teacher": None, "teacher_model": None, "teacher_force": False}
# Data whose content the program itself verifies: where they lie is not part of a trial's identity.
VERIFIED_SOURCES = ("digits", "mnist")


# A function itself, from Python, stands for its name.
_NAMED = BeforeValidator(lambda value: reference(value) if callable(value) else value)


def _family(names: tuple[str, ...]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names and not is_reference(name):
            raise ValueError(f"unknown name; {nearest(name, names)}, or your own as module:function")
        return name

    return AfterValidator(check)


def _plain(value: Any) -> Any:
    """`value` if it means the same in JSON: what becomes something else there would share another trial's digest."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value)):
        return value
    raise ValueError(f"{value!r:.40} is not a finite number, text, true or false, a list or a table of these")


Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]


class Frozen(BaseModel):
    """A value: no unknown fields, no changes, no NaN, no guessing of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(Frozen):
    """Where examples come from and how they are split."""

    source: Annotated[str, _NAMED, _family(SOURCES)] = Field(
        "digits",
        description="digits | mnist | cifar10 | cifar100 | tiny-imagenet | npz | table (csv, parquet) | folder (of "
        "images) | module:function",
    )
    path: str | None = Field(None, description="file or folder of the data; relative to where you run")
    kwargs: Arguments = Field({}, description="arguments for module:function")
    train: int | None = Field(
        None, ge=1, description="use exactly this many training examples, drawn last (default: all that are left)"
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="share of the training examples held out next, with the same noise"
    )
    test: float = Field(0.2, gt=0, lt=1, description="share split off first as test set, where the source has none")
    normalise: Literal["default", "train", "cifar", "imagenet", "none", "keep"] = Field(
        "default",
        description="default: the source's own constants, else as train; train: mean and deviation of the training "
        "split (one pair for images [N, H, W], per channel for [N, C, H, W], per feature for tables); cifar, imagenet: "
        "the usual constants of colour images; none: floats, as they are (bytes of images by 255); keep: shape and "
        "kind of number too, as for tokens [N, T] and series [N, T, F]",
    )
    label: str = Field("label", description="table: column of the labels to train on")
    truth: str | None = Field(None, description="table: column of the true labels, where they are known")
    size: int | None = Field(None, ge=1, description="folder, tiny-imagenet: resize images to size x size pixels")
    crop: int | None = Field(
        None, ge=1, description="folder: resize the shorter side to `size`, then cut crop x crop pixels from the middle"
    )
    seed: int = Field(0, ge=0, description="seed of the split; the same for all seeds of the study")

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if self.kwargs and not is_reference(self.source):
            raise ValueError("kwargs belong to source = 'module:function'")
        if self.path is not None and (self.source == "digits" or is_reference(self.source)):
            raise ValueError(f"path does not belong to source = '{self.source}'")
        if self.path is None and self.source in ("npz", "table", "folder"):
            raise ValueError(f"source = '{self.source}' needs a path")
        return self


class Noise(Frozen):
    """How training labels are corrupted. Test labels never are."""

    kind: Annotated[str, _NAMED, _family(NOISES)] = Field(
        "none",
        description="none | uniform-relabel (true class may be drawn) | symmetric-flip (always a wrong class) | "
        "asymmetric (class map) | pairflip (c -> c+1) | human (file of labels) | module:function",
    )
    rate: float = Field(0.0, ge=0, le=1, description="nominal share of examples selected, in [0, 1]")
    count: Literal["exact", "per-sample", "first"] = Field(
        "exact",
        description="exact: round(rate * N) examples; per-sample: each with probability rate; first: the first "
        "round(rate * N), as DSD2's code does",
    )
    map: dict[str, int] | Literal["block5"] | None = Field(
        None,
        description='asymmetric: {"2" = 7, ...}; default: the map of He et al. for the data source; block5: the next '
        "of each five classes in order, as their code does for CIFAR-100",
    )
    path: str | None = Field(
        None,
        description="human: labels as npz, npy, csv, txt or pt, in the order of the training set; default: CIFAR-N's "
        "file in the data folder",
    )
    key: str | None = Field(None, description="human: name of the array in the npz, or of the column in the csv")
    seed: int | None = Field(None, ge=0, description="seed of the pattern; default: that of the trial, so it varies")

    @model_validator(mode="after")
    def _consistent(self) -> Noise:
        if self.kind == "none" and self.rate > 0:
            raise ValueError("rate > 0 but kind = 'none'; name a kind of noise, such as 'symmetric-flip'")
        if self.kind == "human" and self.path is None and self.key is None:
            raise ValueError("kind = 'human' needs path, a file of labels, or the key of a label set of CIFAR-N")
        if self.rate > 0 and (self.kind == "human" or is_reference(self.kind)):
            raise ValueError(f"rate > 0, but kind = '{self.kind}' brings its own labels; leave rate out")
        if self.map is not None and self.kind != "asymmetric":
            raise ValueError("map belongs to kind = 'asymmetric'")
        if isinstance(self.map, dict) and any(not key.isdecimal() or to < 0 for key, to in self.map.items()):
            raise ValueError('map: classes are numbers from 0, as in {"2" = 7}')
        return self


class Model(Frozen):
    """The network: an ordinary nn.Module."""

    name: Annotated[str, _NAMED, _family(MODELS)] = Field(
        "lenet-300-100",
        description="lenet-300-100 | mlp (widths) | small-cnn (channels) | resnet18 (width, max_pool) | resnet101 "
        "(width) | vgg-like (delta, gamma) | vgg16 (width) | vit (patch, dim, depth, heads, mlp_dim, dropout) | "
        "module:function",
    )
    kwargs: Arguments = Field({}, description="arguments of the model, such as widths = [300, 100]")
    init: Literal["default", "he-paper", "he-code"] = Field(
        "default",
        description="default: the model's own; he-paper: Kaiming-normal weights, zero biases; he-code: Kaiming-normal "
        "weights, torch's own biases, BatchNorm scales uniform in [0, 1)",
    )
    weights: str | None = Field(
        None,
        description="file of weights that every seed starts from, and rewinds to: a state_dict as safetensors, or kept "
        "with torch.save (.pt, .pth); relative to where you run",
    )
    weights_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of their names, kinds, shapes and values, which is their identity; found by itself, and "
        "where it is given the file must have it",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_content(cls, fields: Any) -> Any:
        path = fields.get("weights") if isinstance(fields, dict) else None
        if not isinstance(path, str):
            return fields
        expected = "expected a state_dict as safetensors, or saved with torch.save"
        try:
            found = checkpoint.content_of(path)
        except ValueError as problem:
            raise ValueError(f"weights = {path!r}: {problem}; {expected}") from None
        if fields.get("weights_sha256") not in (None, found):
            raise ValueError(f"weights = {path!r}: has the SHA-256 {found}, not weights_sha256; restore it")
        return {**fields, "weights_sha256": found}


class Recipe(Frozen):
    """How one level is trained."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd: coupled weight decay; adamw: decoupled")
    lr: float = Field(0.1, gt=0, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0, description="on all parameters")
    batch_size: int = Field(128, ge=1, description="examples per step")
    epochs: int = Field(200, ge=1, le=100_000, description="length of the schedule of every level")
    schedule: Literal["constant", "step", "cosine"] = Field("constant", description="of the learning rate")
    milestones: tuple[int, ...] = Field((), strict=False, description="step: epochs at which the rate falls")
    factor: float = Field(0.1, gt=0, le=1, description="step: by which it falls")
    warmup: int = Field(0, ge=0, description="epochs in which the rate rises linearly to that of the schedule")
    augment: tuple[Literal["flip", "shift", "resized-crop"], ...] = Field(
        (),
        strict=False,
        description="of training images: flip (left-right, half of them), shift (by up to 4 pixels, black beyond), "
        "resized-crop (8 to 100 % of the area, sides 3:4 to 4:3)",
    )
    decay_by: dict[str, float] = Field(
        {},
        description='weight decay of some parameters, by name (* and ?): {"*.bias" = 0.0}; others have weight_decay',
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: products in bfloat16 (autocast), weights and their updates in float32; faster"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("schedule = 'step' and milestones = [...] belong together")
        if any(m < 1 or m >= self.epochs for m in self.milestones) or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise ValueError(f"milestones: rising epochs between 1 and {self.epochs - 1}")
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError("momentum belongs to optimizer = 'sgd'")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup: expected less than the {self.epochs} epochs")
        if len(set(self.augment)) < len(self.augment) or {"shift", "resized-crop"} <= set(self.augment):
            raise ValueError("augment: each at most once, and shift or resized-crop, not both")
        if any(not 0 <= decay < math.inf for decay in self.decay_by.values()):
            raise ValueError("decay_by: expected weight decays from 0")
        return self


class Pruning(Frozen):
    """Which weights go, and how fast."""

    criterion: Annotated[str, _NAMED, _family(CRITERIA)] = Field(
        "magnitude", description="magnitude |w| | gradient |dL/dw * w| | random U(0,1) | module:function"
    )
    fraction: float = Field(0.2, gt=0, lt=1, description="share of the remaining weights removed per level")
    levels: int = Field(24, ge=0, le=1000, description="pruning rounds; level 0 is dense, so levels + 1 trainings")
    scope: Literal["global", "layer"] = Field("global", description="compare scores across the network or per layer")
    ladder: Literal["iterative", "one-shot"] = Field(
        "iterative", description="iterative: score the level before; one-shot: always score the dense network"
    )
    include: tuple[str, ...] = Field(
        ("*",), strict=False, description="module names whose weights may be pruned (* and ?)"
    )
    exclude: tuple[str, ...] = Field(
        (), strict=False, description="module names that are never pruned, such as 'output'"
    )
    batches: int = Field(1, ge=1, description="gradient: batches averaged (He et al.: 1)")
    score_mode: Literal["eval", "train"] = Field("eval", description="gradient: mode of the network while scoring")
    remask: Literal["none", "layer", "global", "even"] = Field(
        "none",
        description="control: the masks of the ladder, shuffled within each layer, over the network, or spread evenly "
        "(the same density in every layer)",
    )
    steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (),
        strict=False,
        max_length=1000,
        description="how many times `fraction` is removed on the way to level 1, 2, ...; once where nothing is said",
    )
    parameters: tuple[str, ...] = Field(
        (),
        strict=False,
        description="names of further parameters that may be pruned (* and ?), such as 'embedding.weight' or one of a "
        "module of yours; frozen ones too",
    )
    floor: dict[str, float] = Field(
        {},
        description='weights that a layer keeps at least, by its name (* and ?): {"*" = 0.01, "output" = 100}; below 1 '
        "a share, rounded up, from 1 a count; of several that fit, the highest",
    )
    count_ignored: bool = Field(
        False, description="count excluded weights in fraction and sparsity, as He et al.'s code does for LeNet"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Pruning:
        if self.count_ignored and self.scope == "layer":
            raise ValueError("count_ignored belongs to scope = 'global'")
        if any(least <= 0 or (least > 1 and not least.is_integer()) for least in self.floor.values()):
            raise ValueError("floor: expected shares between 0 and 1, or whole numbers of weights")
        return self

    def rounds(self, level: int) -> int:
        """How many times `fraction` was removed down to `level`.

        >>> [Pruning(steps=(3, 2)).rounds(level) for level in range(5)]
        [0, 3, 5, 6, 7]
        """
        return sum(self.steps[:level]) + max(0, level - len(self.steps))


class Restart(Frozen):
    """Which weights, and which point of the schedule, the next level begins from."""

    mode: Literal["rewind", "finetune", "lr-rewind", "scratch", "re-init"] = Field(
        "rewind",
        description="rewind: weights and schedule of iteration `to`; finetune: final weights, constant rate; "
        "lr-rewind: final weights, schedule from `to`; scratch: a new start every level; re-init: masks of the rewind "
        "ladder, new start",
    )
    to: str = Field("0it", pattern=r"^(0|[1-9]\d*)(it|ep)$", description="'1000it' or '2ep' into the dense level")
    lr: float | None = Field(None, gt=0, description="finetune: learning rate; default: the last of the schedule")
    start_at: Literal["start", "rewind"] = Field("start", description="re-init: begin the schedule at 0 or at `to`")

    @model_validator(mode="after")
    def _consistent(self) -> Restart:
        if self.lr is not None and self.mode != "finetune":
            raise ValueError("lr belongs to mode = 'finetune'")
        if self.start_at != "start" and self.mode != "re-init":
            raise ValueError("start_at belongs to mode = 're-init'")
        return self

    def iteration(self, steps_per_epoch: int) -> int:
        """`to` as a count of optimiser steps."""
        count, unit = int(self.to[:-2]), self.to[-2:]
        return count if unit == "it" else count * steps_per_epoch


def _teacher(name: str) -> str:
    if not re.fullmatch(r"dense|sparse|oracle|[0-9a-f]{16}:\d{1,4}", name):
        raise ValueError("expected dense, sparse, oracle, or a finished level of the store as DIGEST:LEVEL")
    return name


def _own(kind: str) -> dict[str, Any]:
    return OWN_ANTIDOTE if is_reference(kind) else ANTIDOTES.get(kind, {})


class Antidote(Frozen):
    """What changes the objective to remove the dip. (l2 is recipe.weight_decay: coupled with sgd, else decoupled.)"""

    kind: Annotated[str, _NAMED, _family(tuple(ANTIDOTES))] = Field(
        "none",
        description="none: cross-entropy alone | distill (from a teacher) | tether (L2-SP: to the weights that the "
        "level starts from) | label-smoothing | gce (generalised cross-entropy) | sce (symmetric cross-entropy) | elr "
        "(early-learning regularisation) | module:function",
    )
    alpha: float | None = Field(
        None,
        ge=0,
        description="distill: (1 - alpha) CE + alpha T^2 KL(teacher || student), 0.8 by default, may exceed 1; sce: "
        "weight of the cross-entropy, 0.1",
    )
    beta: float | None = Field(
        None,
        ge=0,
        description="sce: weight of the reverse cross-entropy; 1.0. elr: what a target keeps at a visit, below 1; 0.7",
    )
    temperature: float | None = Field(None, gt=0, description="distill: T; 10.0 by default")
    strength: float | None = Field(
        None,
        ge=0,
        description="tether: strength / 2 x squared distance, over all parameters; 0.01. label-smoothing: share spread "
        "over all classes, below 1; 0.1. elr: weight of the regularisation; 3.0",
    )
    q: float | None = Field(None, gt=0, le=1, description="gce: (1 - p^q) / q; 0.7 by default, 1: mean absolute error")
    teacher: Annotated[str, AfterValidator(_teacher)] | None = Field(
        None,
        description="distill, and module:function that asks one: sparse (default of distill): the sparse level of the "
        "same trial's ladder without antidote that is best on validation; oracle: that which is best on test; dense: "
        "its level 0; DIGEST:LEVEL: one of the store",
    )
    teacher_model: Model | None = Field(
        None, description="distill: the teacher's network, as in [model], where it is another than the student's"
    )
    kwargs: Arguments = Field({}, description="arguments for module:function")
    teacher_force: bool = Field(False, description="distill: allow a teacher of other data or another noise pattern")

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, fields: Any) -> Any:
        kind = fields.get("kind", "none") if isinstance(fields, dict) else None
        kind = reference(kind) if callable(kind) else kind
        own = _own(kind) if isinstance(kind, str) else {}
        return {**fields, **{k: v for k, v in own.items() if fields.get(k) is None}} if own else fields

    @model_validator(mode="after")
    def _consistent(self) -> Antidote:
        for name, unset in LATER["antidote"].items():
            if name not in _own(self.kind) and getattr(self, name) != unset:
                kinds = [kind for kind in (*ANTIDOTES, "module:function") if name in _own(kind)]
                homes = " or ".join(f"'{kind}'" for kind in kinds)
                raise ValueError(f"{name} belongs to kind = {homes}, not '{self.kind}'")
        if self.kind == "label-smoothing" and self.strength is not None and self.strength >= 1:
            raise ValueError("strength of label smoothing: expected a share below 1")
        if self.kind == "elr" and self.beta is not None and self.beta >= 1:
            raise ValueError("beta of elr: expected a share below 1")
        if self.teacher_model is not None and self.stored is not None:
            raise ValueError("teacher_model: a teacher of the store brings its own; leave it out")
        return self

    @property
    def teaches(self) -> bool:
        """Whether there is a teacher whose word counts."""
        return bool(self.alpha) if self.kind == "distill" else self.teacher is not None

    @property
    def chooses(self) -> bool:
        """Whether the teacher is chosen among the levels of a ladder, so that its depth decides the numbers."""
        return self.teaches and self.teacher in ("sparse", "oracle")

    @property
    def stored(self) -> tuple[str, int] | None:
        """Trial digest and level of a teacher that is named."""
        name, colon, level = (self.teacher or "").partition(":")
        return (name, int(level)) if colon else None
