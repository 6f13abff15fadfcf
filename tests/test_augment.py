"""Augmentation: the same pixels as a loop over images, and draws that neither batches nor resuming change."""

# N examples, B batch, C channels, H height, W width, K classes.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from prunephase import study
from prunephase.bench import Bench, Site
from prunephase.data import Dataset, Split
from prunephase.engine import Batch, Job, fit
from prunephase.engine.augment import Augmentation
from prunephase.engine.plain import Plain
from prunephase.errors import UserError
from prunephase.sections import Recipe

N, SHAPE, K = 40, (3, 9, 7), 3
BLACK = torch.tensor([-0.5, 0.25, -1.75])


def images(count: int = N, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def moved(image: NDArray[np.float32], flip: int, down: int, right: int) -> NDArray[np.float32]:
    """Pad by 4 black pixels, cut out the size of the image, flip it."""
    channels, height, width = image.shape
    padded = np.empty((channels, height + 8, width + 8), np.float32)
    padded[:] = BLACK.numpy()[:, None, None]
    padded[:, 4 : 4 + height, 4 : 4 + width] = image
    out = padded[:, 4 + down : 4 + down + height, 4 + right : 4 + right + width]
    return out[:, :, ::-1] if flip else out


@pytest.mark.parametrize("names", [("flip",), ("shift",), ("flip", "shift"), ("shift", "flip")])
def test_flips_and_shifts_are_those_of_a_loop_over_images_bit_for_bit(names: tuple[str, ...]) -> None:
    augment, given = Augmentation(names, BLACK), images()
    drawn = augment.draws(SHAPE, N, 3, 1, 2)
    assert drawn.shape == (N, len(names) if names == ("flip",) else 2 + ("flip" in names))
    found = augment(given, drawn)
    for image, numbers, ours in zip(given.numpy(), drawn.tolist(), found.numpy(), strict=True):
        flip = numbers.pop(0) if "flip" in names else 0
        assert ours.tobytes() == moved(image, flip, *(numbers or (0, 0))).tobytes()
    assert not torch.equal(found, given)


@pytest.mark.parametrize("names", [("resized-crop",), ("flip", "resized-crop")])
@pytest.mark.parametrize("shape", [SHAPE, (1, 32, 32), (2, 5, 64)])
def test_a_resized_crop_is_torchs_interpolation_of_the_cut_out(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    augment, given = Augmentation(names), images(200, shape)
    drawn = augment.draws(shape, 200, 0, 0, 0)
    for image, (*flip, top, left, height, width), ours in zip(
        given, drawn.tolist(), augment(given, drawn), strict=True
    ):
        part = image[None, :, top : top + height, left : left + width]
        assert part.shape[2:] == (height, width)
        expected = interpolate(part, shape[1:], mode="bilinear", align_corners=False, antialias=False)[0]
        torch.testing.assert_close(ours, expected.flip(2) if flip == [1] else expected, rtol=0, atol=1e-5)


def test_half_are_flipped_and_all_shifts_are_as_likely() -> None:
    count = 81_000
    flip, down, right = Augmentation(("flip", "shift"), BLACK).draws(SHAPE, count, 0, 0, 0).T.numpy().astype(int)
    assert abs(flip.mean() - 0.5) < 4 * 0.5 / count**0.5
    seen = np.zeros((2, 9, 9))
    np.add.at(seen, (flip, down + 4, right + 4), 1)
    expected = count / seen.size
    square = float(((seen - expected) ** 2 / expected).sum())  # chi-square of 161 degrees, 5.5 deviations
    assert square < 161 + 5.5 * (2 * 161) ** 0.5


def test_cut_outs_follow_the_rules_of_torchvision() -> None:
    """Against its loop, image by image: the same law, other draws."""
    height, width, count = 32, 24, 20_000
    ours = Augmentation(("resized-crop",)).draws((3, height, width), count, 0, 0, 0).numpy().astype(int)
    random = np.random.default_rng(1)

    def box() -> tuple[int, int, int, int]:
        for _ in range(10):
            area = height * width * random.uniform(0.08, 1)
            ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                return random.integers(0, height - h + 1), random.integers(0, width - w + 1), h, w
        return 0, 0, height, width

    theirs = np.array([box() for _ in range(count)])
    for boxes in (ours, theirs):
        top, left, h, w = boxes.T
        assert (boxes >= 0).all()
        assert (top + h).max() == height
        assert (left + w).max() == width
        assert 0.07 < (h * w).min() / (height * width) < 0.1
    features = [np.stack([b.T[2] * b.T[3], b.T[2] / b.T[3], *b.T]) for b in (ours, theirs)]
    levels = np.linspace(0.05, 0.95, 10)
    one, other = (np.quantile(f, levels, axis=1) for f in features)
    spread = features[1].std(1)
    assert (np.abs(one - other) < 0.05 * spread + 1).all()  # a pixel, as sizes are whole
    means = np.abs(features[0].mean(1) - features[1].mean(1)) / spread
    assert (means < 4 * (2 / count) ** 0.5).all()


def test_where_no_cut_out_fits_it_is_the_largest_in_the_middle() -> None:
    flat = Augmentation(("resized-crop",)).draws((3, 2, 200), 5, 0, 0, 0)
    assert flat.tolist() == [[0, 98, 2, 3]] * 5
    assert Augmentation(("resized-crop",)).draws((3, 200, 2), 5, 0, 0, 0).tolist() == [[98, 0, 3, 2]] * 5


def test_draws_are_named_by_seed_level_and_epoch() -> None:
    augment = Augmentation(("flip", "shift"), BLACK)
    first = augment.draws(SHAPE, N, 0, 0, 0)
    assert torch.equal(first, augment.draws(SHAPE, N, 0, 0, 0))
    assert first[:4].tolist() == PINNED
    for place in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(first, augment.draws(SHAPE, N, *place))


# Draws are part of what a trial means: they may never change.
PINNED = [[0, 3, -4], [1, 2, -1], [0, -3, -1], [0, 0, -1]]


# -- in training


def split(count: int, seed: int = 0) -> Split:
    labels = torch.randint(0, K, (count,), generator=torch.Generator().manual_seed(seed))
    return Split(images(count), labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 5, K))


def seen(data: Split, recipe: Recipe, **more: Any) -> list[tuple[Tensor, Tensor]]:
    """What an objective sees in every step: inputs and places."""
    steps: list[tuple[Tensor, Tensor]] = []

    def objective(batch: Batch) -> Tensor:
        steps.append((batch.inputs.clone(), batch.index))
        return cross_entropy(batch.network(batch.inputs), batch.labels)

    for _ in fit(network(), data, recipe, seed=5, level=2, masks={}, objective=objective, black=BLACK, **more):
        pass
    return steps


@pytest.mark.parametrize("names", [("flip", "shift"), ("flip", "resized-crop")])
@pytest.mark.parametrize("begin", [0, 5])
def test_training_sees_each_image_as_the_draws_of_the_epoch_say_and_leaves_the_data_alone(
    names: tuple[str, ...], begin: int
) -> None:
    data = split(N)
    recipe = Recipe(augment=names, epochs=3, batch_size=16)  # 3 steps an epoch
    augment, kept = Augmentation(names, BLACK), data.inputs.clone()
    steps = seen(data, recipe, begin=begin)
    assert len(steps) == 9 - begin
    for step, (inputs, places) in enumerate(steps, start=begin):
        drawn = augment.draws(SHAPE, N, 5, 2, step // 3)
        assert torch.equal(inputs, augment(data.inputs[places], drawn[places]))
    assert torch.equal(data.inputs, kept)


def test_batches_of_another_size_change_no_image() -> None:
    def by_place(size: int) -> Tensor:
        steps = seen(split(N), Recipe(augment=("flip", "shift"), epochs=1, batch_size=size))
        inputs, places = (torch.cat(parts) for parts in zip(*steps, strict=True))
        return inputs[places.argsort()]

    assert torch.equal(by_place(7), by_place(40))


def test_without_augmentation_an_image_is_what_it_was() -> None:
    data = split(N)
    for inputs, places in seen(data, Recipe(epochs=1, batch_size=16)):
        assert torch.equal(inputs, data.inputs[places])


def test_evaluation_is_never_augmented() -> None:
    data = Dataset(split(N), split(8), split(9), ("a", "b", "c"), "", black=BLACK)

    def said(names: tuple[str, ...]) -> Any:
        ((found),) = Plain(Job(network(), data, Recipe(augment=names), 0, 0, {})).guesses()
        return {name: (loss, classes.tolist()) for name, (loss, classes) in found.items()}

    assert said(("flip", "shift")) == said(("flip", "resized-crop")) == said(())


# -- what cannot be augmented


@pytest.fixture
def bench(tiny: dict[str, Any], tmp_path: Path) -> Callable[..., Bench]:
    """`bench(recipe, data)`: that of the tiny study with other fields of its recipe, and with other data."""

    def made(recipe: dict[str, Any], clean: Dataset | None = None) -> Bench:
        (trial,) = study.parse({**tiny, "recipe": {**tiny["recipe"], **recipe}}).trials
        return Bench(trial, Site(tmp_path), clean)

    return made


def rows(count: int) -> Split:
    labels = torch.arange(count) % K
    return Split(torch.zeros(count, 5), labels, labels, torch.zeros(count, dtype=torch.bool), torch.arange(count))


@pytest.mark.parametrize("names", [["flip"], ["shift"], ["resized-crop"]])
def test_rows_of_a_table_are_no_images(bench: Callable[..., Bench], names: list[str]) -> None:
    table = Dataset(rows(60), rows(9), rows(9), ("a", "b", "c"), "")
    with pytest.raises(UserError, match=r"recipe.augment = .*an example of these data is \[5\]; leave it out"):
        bench({"augment": names}, table).check()


def test_what_black_is_must_be_known_to_shift_images(bench: Callable[..., Bench]) -> None:
    bench({"augment": ["flip", "resized-crop"]}).check()  # digits: numbers from 0 to 16
    with pytest.raises(UserError, match="'shift' fills the margin with black"):
        bench({"augment": ["shift"]}).check()
    bytes_ = Dataset(split(120), split(8), split(9), ("a", "b", "c"), "", black=BLACK)
    bench({"augment": ["flip", "shift"]}, bytes_).check()
