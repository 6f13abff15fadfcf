"""Images that stay in a file: the same bytes as those in memory, whoever asks, and a cache that can be trusted."""

# N images, B batch.

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from prunephase import data, sections
from prunephase.data import Arrays, Dataset, cache, images, lazy
from prunephase.data.lazy import Images
from prunephase.engine import plain
from prunephase.engine.forward import guesses
from prunephase.engine.job import Job
from prunephase.engine.native import chain
from prunephase.errors import StorageError, UserError

EACH, TEST, SHAPE = 12, 4, (3, 10, 6)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 36 + 12 random images of three classes; the cache lies beside it."""
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for part, count in (("train", EACH), ("test", TEST)):
        for name in "abc":
            (tmp_path / "root" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (SHAPE[1], SHAPE[2], 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "root" / part / name / f"{i:02}.png")
    return tmp_path / "root"


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """`lazily(True)` makes small data as large ones are."""

    def choose(yes: bool) -> None:
        monkeypatch.setattr(cache, "SMALL", 1 if yes else 2**24)
        monkeypatch.setattr(lazy, "LARGE", 1 if yes else 2**30)

    return choose


def spec(root: Path, **more: Any) -> sections.Data:
    return sections.Data(source="folder", path=str(root), **{"validation": 0.25, **more})


def both(
    wanted: sections.Data, lazily: Callable[[bool], None], plugins: tuple[str, ...] = ()
) -> tuple[Dataset, Dataset]:
    lazily(False)
    eager = data.load(wanted, plugins)
    lazily(True)
    found = data.load(wanted, plugins)
    for name, split in found.splits.items():
        assert isinstance(split.inputs, Images), name
        assert isinstance(eager.splits[name].inputs, Tensor), name
    return eager, found


# -- as the tensor


def test_the_fingerprint_is_that_of_the_pixels_and_labels(root: Path, lazily: Any) -> None:
    lazily(True)
    digest = hashlib.sha256()
    for prefix, part, count in (("", "train", EACH), ("test_", "test", TEST)):
        files = [root / part / name / f"{i:02}.png" for name in "abc" for i in range(count)]
        pixels = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
        labels = np.repeat(np.arange(3), count)
        digest.update(f"{prefix}inputs |u1 {pixels.shape}".encode() + pixels.tobytes())
        digest.update(f"{prefix}labels <i8 {labels.shape}".encode() + labels.astype("<i8").tobytes())
    assert data.load(spec(root)).fingerprint == digest.hexdigest()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_holds_them_where_it_has_room_and_reads_them_where_not(
    root: Path, lazily: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, found = both(spec(root), lazily)
    gpu = torch.device("cuda", 0)
    held = found.to(gpu)
    assert isinstance(held.train.inputs, Tensor)
    assert torch.equal(held.train.inputs.cpu(), eager.train.inputs)
    monkeypatch.setattr(lazy, "SHARE", 0)
    read = found.to(gpu)
    assert isinstance(read.train.inputs, Images)
    assert read.train.inputs.device == gpu
    batch = read.train.inputs.index_select(0, torch.tensor([3, 1], device=gpu))
    assert batch.device == gpu
    assert torch.equal(batch.cpu(), eager.train.inputs[[3, 1]])


@pytest.mark.parametrize("normalise", ["default", "none", "train", "imagenet"])
def test_whatever_is_asked_for_has_the_bytes_of_the_tensor(normalise: Any, root: Path, lazily: Any) -> None:
    eager, found = both(spec(root, normalise=normalise), lazily)
    assert found.fingerprint == eager.fingerprint
    assert found.input_shape == eager.input_shape == SHAPE
    assert found.black is not None
    assert eager.black is not None
    assert torch.equal(found.black, eager.black)
    for name, split in found.splits.items():
        images, tensor = split.inputs, eager.splits[name].inputs
        assert (images.shape, images.ndim, images.dtype, images.device, len(images)) == (
            *(tensor.shape, tensor.ndim, tensor.dtype, tensor.device, len(tensor)),
        )
        assert not images.is_contiguous()
        assert torch.equal(images[:], tensor)
        assert torch.equal(images[:2], tensor[:2])
        assert torch.equal(images[3:-2:2], tensor[3:-2:2])
        chosen = torch.tensor([5, 0, 5, 2])
        assert torch.equal(images.index_select(0, chosen), tensor.index_select(0, chosen))
        assert torch.equal(images[chosen], tensor[chosen])
        for size in (1, 5, 1000):
            mine, other = list(images.split(size)), list(tensor.split(size))
            assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
        there = split.to(torch.device("cpu"))
        assert torch.equal(there.inputs[:], tensor)
        assert split.codes is None


def grey() -> Arrays:
    """Greyscale images in a file of the user's own, and labels."""
    path = Path(os.environ["GREY"])
    if not path.exists():
        np.save(path, np.random.default_rng(0).integers(0, 256, (60, 5, 4), np.uint8))
    return Arrays(np.load(path, mmap_mode="r"), np.arange(60) % 3)


def part() -> Arrays:
    """A part of it: its place in the file is not that of the whole."""
    whole = grey()
    return Arrays(whole.inputs[6:], whole.labels[6:])


def test_a_users_own_memory_map_is_read_lazily_but_no_part_of_one(
    tmp_path: Path, lazily: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREY", str(tmp_path / "grey.npy"))
    wanted = sections.Data(source=f"{__name__}:grey", normalise="train")
    eager, found = both(wanted, lazily, (__name__,))
    assert found.fingerprint == eager.fingerprint
    assert found.input_shape == (1, 5, 4)
    assert torch.equal(found.train.inputs[:], eager.train.inputs)
    data.publish(wanted, found, tmp_path / "shared")
    again = data.obtain(wanted, (__name__,), tmp_path / "shared")
    assert isinstance(again.train.inputs, Images)
    assert torch.equal(again.train.inputs[:], eager.train.inputs)
    cut = data.load(sections.Data(source=f"{__name__}:part"), (__name__,))
    assert isinstance(cut.train.inputs, Tensor)


def test_floats_of_more_than_a_gibibyte_are_large_and_cifar_is_not() -> None:
    one = np.broadcast_to(np.uint8(0), (2**28, 1))
    assert not lazy.large(one, None)
    assert lazy.large(one, one[:1])
    cifar = np.broadcast_to(np.uint8(0), (60_000, 3, 32, 32))
    assert not lazy.large(cifar)


# -- in the engine


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 4, 3))


def test_training_and_evaluation_give_the_same_weights_and_guesses(root: Path, lazily: Any) -> None:
    found = []
    for dataset in both(spec(root), lazily):
        net = network()
        recipe = sections.Recipe(epochs=2, batch_size=7)
        for _ in plain.fit(net, dataset.train, recipe, seed=0, level=0, masks={}):
            pass
        found.append((list(net.parameters()), guesses(net, dataset)))
    (weights, guess), (others, other) = found
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    for name in guess:
        assert guess[name][0] == other[name][0]
        assert torch.equal(guess[name][1], other[name][1])


def test_the_kernels_that_read_memory_leave_them_alone(
    root: Path, lazily: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "library", object)  # they need not be compiled for this
    eager, found = both(spec(root), lazily)
    net = nn.Sequential(nn.Flatten(), nn.Linear(180, 3))
    jobs = [Job(net, dataset, sections.Recipe(epochs=1), 0, 0, {}) for dataset in (eager, found)]
    assert [chain.Chain.fits(job) for job in jobs] == [True, False]


# -- between processes


def test_published_images_are_named_and_not_copied(root: Path, lazily: Any, tmp_path: Path) -> None:
    eager, found = both(spec(root), lazily)
    data.publish(spec(root), found, tmp_path / "shared")
    (file,) = (tmp_path / "shared").iterdir()
    assert not [name for name in load_file(file) if "inputs" in name or "codes" in name]
    again = data.obtain(spec(root), folder=tmp_path / "shared")
    assert again.fingerprint == eager.fingerprint
    assert again.classes == eager.classes
    assert again.black is not None
    assert torch.equal(again.black, eager.black)
    for name, split in again.splits.items():
        assert isinstance(split.inputs, Images)
        assert torch.equal(split.inputs[:], eager.splits[name].inputs)
        assert torch.equal(split.labels, eager.splits[name].labels)
        assert torch.equal(split.index, eager.splits[name].index)


@pytest.mark.parametrize("left", [None, 100])
def test_where_the_file_is_not_seen_the_data_are_loaded(
    root: Path, lazily: Any, tmp_path: Path, left: int | None
) -> None:
    eager, found = both(spec(root), lazily)
    data.publish(spec(root), found, tmp_path / "shared")
    for file in (tmp_path / "cache" / "images").iterdir():
        os.unlink(file) if left is None else os.truncate(file, left)
    again = data.obtain(spec(root), folder=tmp_path / "shared")
    assert torch.equal(again.train.inputs[:], eager.train.inputs)


# -- the cache


def kept(root: Path) -> list[Path]:
    return sorted((root.parent / "cache" / "images").glob("*"))


def test_images_are_decoded_once(root: Path, lazily: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lazily(True)
    first = data.load(spec(root))
    files = kept(root)
    assert len(files) == 2
    calls, pixels = [], images.pixels
    monkeypatch.setattr(images, "pixels", lambda *given: calls.append(given) or pixels(*given))
    assert data.load(spec(root)).fingerprint == first.fingerprint
    assert len(calls) == 2  # the first of each folder, which says the shape
    assert data.load(spec(root, size=4)).input_shape == (3, 4, 4)
    assert len(kept(root)) == 4


def test_a_changed_file_is_decoded_again(root: Path, lazily: Any) -> None:
    lazily(True)
    file, prints = root / "train" / "b" / "03.png", []
    for second, colour in enumerate([(1, 2, 3), (4, 5, 6)]):
        Image.new("RGB", (SHAPE[2], SHAPE[1]), colour).save(file, "bmp")  # of the same size, whatever its colour
        os.utime(file, (second, second))
        prints.append(data.load(spec(root)).fingerprint)
    assert prints[0] != prints[1]
    lazily(False)
    assert data.load(spec(root)).fingerprint == prints[1]


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "longer", "seal"])
def test_a_damaged_file_is_made_anew(root: Path, lazily: Any, damage: str) -> None:
    lazily(True)
    before = data.load(spec(root)).fingerprint
    whole = [file.read_bytes() for file in kept(root)]
    for file, content in zip(kept(root), whole, strict=True):
        broken = bytearray(content)
        broken[-1 if damage == "seal" else 7] ^= 1
        made = {
            "bit": bytes(broken),
            "seal": bytes(broken),
            "cut": content[:-1],
            "empty": b"",
            "longer": content + b"0",
        }
        file.write_bytes(made[damage])
    assert data.load(spec(root)).fingerprint == before
    assert [file.read_bytes() for file in kept(root)] == whole


def test_the_file_holds_the_pixels_and_their_seal(root: Path, lazily: Any) -> None:
    lazily(True)
    data.load(spec(root))
    for file in kept(root):
        content = file.read_bytes()
        assert len(content) in (3 * EACH * 180 + 32, 3 * TEST * 180 + 32)
        assert content[-32:] == hashlib.sha256(content[:-32]).digest()


def load_slowly(root: Path, pipe: Connection) -> None:
    cache.SMALL, pixels = 1, images.pixels

    def slowly(*given: Any) -> Any:
        pipe.send("decoding")
        time.sleep(0.02)
        return pixels(*given)

    images.pixels = slowly
    pipe.send(data.load(spec(root)).fingerprint)


def start(root: Path) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("fork")  # has what this process has imported
    ours, theirs = context.Pipe()
    process = context.Process(target=load_slowly, args=(root, theirs))
    process.start()
    theirs.close()
    return process, ours


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_in_between_leaves_nothing_that_counts_and_two_at_once_agree(root: Path, lazily: Any) -> None:
    lazily(False)
    wanted = data.load(spec(root)).fingerprint
    killed, pipe = start(root)
    assert [pipe.recv() for _ in range(10)] == ["decoding"] * 10
    killed.kill()
    killed.join()
    (scrap,) = kept(root)
    assert scrap.suffix != ".bin"
    for process, pipe in [start(root), start(root)]:
        said = ["decoding"]
        while said[-1] == "decoding":
            said.append(pipe.recv())
        process.join()
        assert said[-1] == wanted
    assert [file.suffix for file in kept(root)] == [".bin", ".bin"]
    assert not scrap.exists()
    lazily(True)
    assert data.load(spec(root)).fingerprint == wanted


def test_a_cache_that_cannot_be_written_is_said_in_one_line(
    root: Path, lazily: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.parent / "file").touch()
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(root.parent / "file"))
    lazily(True)
    with pytest.raises(StorageError, match=r"cannot be written: .* PRUNEPHASE_CACHE") as e:
        data.load(spec(root))
    assert "\n" not in str(e.value)
    lazily(False)
    data.load(spec(root))


def test_an_image_that_cannot_be_read_leaves_nothing_in_the_cache(root: Path, lazily: Any) -> None:
    lazily(True)
    (root / "train" / "c" / "05.png").write_text("text")
    with pytest.raises(UserError, match=r"05.png: cannot be read as an image"):
        data.load(spec(root))
    assert kept(root) == []
