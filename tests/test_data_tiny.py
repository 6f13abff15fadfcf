"""Tiny ImageNet's folder, and images of which the middle is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunephase import sections
from prunephase.data import load
from prunephase.errors import UserError

WNIDS = ("n02", "n01", "n10")  # not in their order


def fails(spec: sections.Data, said: str) -> None:
    with pytest.raises(UserError, match=said) as e:
        load(spec)
    assert "\n" not in str(e.value)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of the archive: of class k, 64 x 64 images whose red is 40 * k and whose green is their number."""
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PRUNEPHASE_DATA", raising=False)
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    rows = []
    for wnid in WNIDS:
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t43\n")
        k = sorted(WNIDS).index(wnid)
        for i in range(6):
            Image.new("RGB", (64, 64), (40 * k, i, 0)).save(folder / f"{wnid}_{i}.JPEG", "png")
        for i in range(2):
            name = f"val_{len(rows)}.JPEG"
            Image.new("RGB", (64, 64), (40 * k, 100 + i, 0)).save(root / "val" / "images" / name, "png")
            rows.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(rows)))
    (root / "test" / "images").mkdir(parents=True)
    return root


def test_tiny_imagenet_has_its_classes_by_number_and_its_validation_set_as_test(tiny: Path) -> None:
    spec = sections.Data(source="tiny-imagenet", path=str(tiny), normalise="none", validation=0.0)
    data = load(spec)
    assert data.classes == ("n01", "n02", "n10")
    assert (len(data.train), len(data.test), data.input_shape) == (18, 6, (3, 32, 32))
    for split in (data.train, data.test):
        assert torch.equal((split.inputs[:, 0, 9, 9] * 255 / 40).round().long(), split.labels)
    assert (data.train.inputs[:, 1, 0, 0] * 255).round().tolist() == [0, 1, 2, 3, 4, 5] * 3
    assert set((data.test.inputs[:, 1, 0, 0] * 255).round().tolist()) == {100, 101}
    assert load(spec.model_copy(update={"size": 16})).input_shape == (3, 16, 16)


def test_tiny_imagenet_is_found_in_the_data_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = load(sections.Data(source="tiny-imagenet", path=str(tiny.parent)))
    monkeypatch.setenv("PRUNEPHASE_DATA", str(tiny.parent))
    assert load(sections.Data(source="tiny-imagenet")).fingerprint == given.fingerprint


def test_tiny_imagenet_that_cannot_be_used_is_named(tiny: Path, tmp_path: Path) -> None:
    spec = sections.Data(source="tiny-imagenet", path=str(tiny))
    fails(sections.Data(source="tiny-imagenet"), "holds no tiny-imagenet-200/val/val_annotations.txt; unpack http")
    fails(spec.model_copy(update={"path": str(tmp_path / "no")}), "data.path = .* holds no tiny-imagenet-200")
    rows = (tiny / "val" / "val_annotations.txt").read_text()
    (tiny / "val" / "val_annotations.txt").write_text(rows + "val_99.JPEG\tn01\t0\n")
    fails(spec, "val_99.JPEG: no such file")
    (tiny / "val" / "val_annotations.txt").write_text(rows.replace("n10", "n11"))
    fails(spec, "its class n11 is not in train")
    for text in ("", "val_0.JPEG n01\n"):
        (tiny / "val" / "val_annotations.txt").write_text(text)
        fails(spec, "expected lines of a file name and a class")
    (tiny / "val" / "val_annotations.txt").write_text(rows)
    shutil.rmtree(tiny / "train")
    fails(spec, "holds no <class>/images/<image>")


# -- the middle of an image


def gradient(root: Path, width: int, height: int) -> np.ndarray:
    """Images whose every pixel has a colour of its own, in two classes; [3, H, W]."""
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    for name in "ab":
        for i in range(5):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return np.moveaxis(pixels, -1, 0)


def cropped(root: Path, size: int | None, crop: int) -> np.ndarray:
    data = load(sections.Data(source="folder", path=str(root), normalise="none", size=size, crop=crop, validation=0.0))
    return (data.train.inputs[0] * 255).round().numpy().astype(np.uint8)


@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize(
    ("width", "height", "crop", "left", "top"),
    [(13, 8, 5, 4, 2), (8, 13, 5, 2, 4), (11, 8, 4, 4, 2), (8, 8, 8, 0, 0), (12, 8, 7, 2, 0)],
)
def test_the_middle_is_where_torchvision_cuts_it(
    tmp_path: Path, size: int | None, width: int, height: int, crop: int, left: int, top: int
) -> None:
    # CenterCrop: int(round((side - crop) / 2)), halves to the even number. Resizing to what it is changes nothing.
    pixels = gradient(tmp_path, width, height)
    assert (cropped(tmp_path, size, crop) == pixels[:, top : top + crop, left : left + crop]).all()


def test_the_shorter_side_becomes_size_and_proportions_stay(tmp_path: Path) -> None:
    pixels = gradient(tmp_path, 25, 16)  # 8 * 25 / 16 = 12.5, and torchvision's Resize drops the half
    image = Image.fromarray(np.moveaxis(pixels, 0, -1)).resize((12, 8), Image.Resampling.BILINEAR)
    expected = np.moveaxis(np.asarray(image), -1, 0)[:, 1:7, 3:9]
    assert (cropped(tmp_path, 8, 6) == expected).all()


def test_a_crop_that_is_too_large_is_named(tmp_path: Path) -> None:
    gradient(tmp_path, 13, 8)
    for size, said in ((None, "data.crop = 9, but its shorter side has 8 pixels"), (7, "shorter side has 7 pixels")):
        fails(sections.Data(source="folder", path=str(tmp_path), size=size, crop=9, validation=0.0), said)


def test_images_of_any_size_can_be_cropped_and_val_serves_as_test(tmp_path: Path) -> None:
    gradient(tmp_path / "train", 13, 8)
    gradient(tmp_path / "val", 9, 20)
    data = load(sections.Data(source="folder", path=str(tmp_path), crop=6, size=7, validation=0.0))
    assert (len(data.train), len(data.test), data.input_shape) == (10, 10, (3, 6, 6))
