"""CIFAR-10 and CIFAR-100: archives, folders, parquet files, their human labels."""

# N examples, R bytes of a record.

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from prunephase import sections
from prunephase.data import SUPERCLASS, Dataset, cache, cifar, cifar_n, load
from prunephase.data.files import read_labels
from prunephase.errors import UserError

DRAW = np.random.default_rng(0)
TRAIN, TEST = 4 * 50, 30  # of CIFAR-10, in two files; of CIFAR-100 as many, in one


def records(source: str, count: int) -> np.ndarray:
    """[N, R] uint8: labels that run through all classes, a coarse one before them for CIFAR-100, then the pixels."""
    classes = 10 if source == "cifar10" else 100
    fine = np.arange(count) % classes
    labels = [fine] if source == "cifar10" else [np.array(SUPERCLASS)[fine], fine]
    return np.column_stack([*labels, DRAW.integers(0, 256, (count, 3072))]).astype(np.uint8)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """`files(source)`: small files of records by name, which the reader then takes for the data set's."""
    monkeypatch.setenv("PRUNEPHASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PRUNEPHASE_DATA", raising=False)

    def make(source: str) -> dict[str, np.ndarray]:
        kind = cifar.BINARY[source]
        names = ("data_batch_1.bin", "data_batch_2.bin") if source == "cifar10" else ("train.bin",)
        train = tuple((name, TRAIN // len(names)) for name in names)
        test = ((kind.test[0][0], TEST if source == "cifar10" else 100),)
        monkeypatch.setitem(cifar.BINARY, source, dataclasses.replace(kind, train=train, test=test))
        return {name: records(source, count) for name, count in (*train, *test)}

    return make


@pytest.fixture
def archive(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`archive(source)` writes the files as an archive into tmp_path, with its checksum taken for the real one."""

    def write(source: str, content: dict[str, np.ndarray] | None = None, cut: int = 0) -> Path:
        kind = cifar.BINARY[source]
        path = tmp_path / kind.archive
        with tarfile.open(path, "w:gz") as tar:
            for name, array in (content or files(source)).items():
                info = tarfile.TarInfo(f"{kind.folder}/{name}")
                info.size = array.nbytes
                tar.addfile(info, io.BytesIO(array.tobytes()))
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(cifar.BINARY, source, dataclasses.replace(cifar.BINARY[source], md5=md5))
        return path

    return write


def spec(source: str, path: Path | None, **more: Any) -> sections.Data:
    return sections.Data(source=source, path=None if path is None else str(path), validation=0.0, **more)


def fails(wanted: sections.Data, said: str) -> None:
    with pytest.raises(UserError, match=said) as e:
        load(wanted)
    assert "\n" not in str(e.value)


def shown(data: Dataset) -> np.ndarray:
    """The training images as bytes again, of data that were not normalised."""
    return (data.train.inputs * 255).round().numpy().astype(np.uint8)


# -- the binary archives


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_an_archive_is_read_byte_by_byte(source: str, files: Any, archive: Any) -> None:
    content = files(source)
    data = load(spec(source, archive(source, content).parent, normalise="none"))
    rows = np.concatenate([array for name, array in content.items() if "test" not in name])
    before = 1 if source == "cifar10" else 2
    seen = shown(data)
    assert seen.shape == (TRAIN, 3, 32, 32)
    for i, c, h, w in DRAW.integers(0, (TRAIN, 3, 32, 32), (200, 4)):
        assert seen[i, c, h, w] == rows[i, before + 1024 * c + 32 * h + w]
    assert data.train.labels.tolist() == rows[:, before - 1].tolist()  # the fine ones
    assert data.test.labels.tolist() == content[cifar.BINARY[source].test[0][0]][:, before - 1].tolist()
    assert len(data.classes) == (10 if source == "cifar10" else 100)
    assert (data.classes[0], data.classes[9]) == (("airplane", "truck") if source == "cifar10" else ("apple", "bottle"))


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_the_unpacked_folder_and_the_archive_give_the_same(
    source: str, files: Any, archive: Any, tmp_path: Path
) -> None:
    content = files(source)
    path = archive(source, content)
    folder = tmp_path / "other" / cifar.BINARY[source].folder
    folder.mkdir(parents=True)
    for name, array in content.items():
        (folder / name).write_bytes(array.tobytes())
    prints = {load(spec(source, place)).fingerprint for place in (path, path.parent, folder, folder.parent)}
    assert len(prints) == 1
    assert load(spec(source, None), home=folder.parent).fingerprint in prints


def test_an_archive_writes_nothing_wherever_its_paths_lead(files: Any, archive: Any, tmp_path: Path) -> None:
    content = files("cifar10")
    content["../../evil.bin"] = content["test_batch.bin"][:1]
    content["/tmp/evil.bin"] = content["test_batch.bin"][:1]
    before = {path for path in tmp_path.parent.rglob("*") if "evil" in path.name}
    path = archive("cifar10", content)
    load(spec("cifar10", path))
    assert {path for path in tmp_path.parent.rglob("*") if "evil" in path.name} == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_archives_that_cannot_be_used_are_named(files: Any, archive: Any, tmp_path: Path) -> None:
    content = files("cifar10")
    path = archive("cifar10", content)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    fails(spec("cifar10", tmp_path), r"cifar-10-binary\.tar\.gz: is not .* \(its MD5 differs\); fetch the file again")
    archive("cifar10", content, cut=5000)
    fails(spec("cifar10", tmp_path), "cannot be read .* fetch the file again")
    archive("cifar10", {**content, "data_batch_2.bin": content["data_batch_2.bin"][:-1]})
    fails(spec("cifar10", tmp_path), "data_batch_2.bin has 304,227 bytes instead of 307,300")
    archive("cifar10", {name: array for name, array in content.items() if name != "test_batch.bin"})
    fails(spec("cifar10", tmp_path), "test_batch.bin is missing")
    fails(spec("cifar10", tmp_path / "absent"), "no such file or folder")
    (tmp_path / "empty").mkdir()
    fails(spec("cifar100", tmp_path / "empty"), "holds no cifar-100-binary.tar.gz, cifar-100-binary or cifar100-train")


def test_a_truncated_file_of_the_unpacked_folder_is_named(files: Any, tmp_path: Path) -> None:
    for name, array in files("cifar10").items():
        (tmp_path / name).write_bytes(array.tobytes()[:-1] if name == "data_batch_1.bin" else array.tobytes())
    fails(spec("cifar10", tmp_path), "data_batch_1.bin has 307,299 bytes instead of 307,300")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_the_archive_comes_from_the_first_good_mirror_and_is_kept(
    archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive("cifar10").read_bytes()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for folder, found in {"other": content[:-1], "good": content}.items():
        (tmp_path / "www" / folder).mkdir(parents=True)
        (tmp_path / "www" / folder / "cifar-10-binary.tar.gz").write_bytes(found)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path / "www")) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        mirrors = tuple(f"http://127.0.0.1:{served.server_port}/{name}/" for name in ("absent", "other", "good"))
        monkeypatch.setitem(cifar.BINARY, "cifar10", dataclasses.replace(cifar.BINARY["cifar10"], mirrors=mirrors))
        try:
            first = load(spec("cifar10", None))
        finally:
            served.shutdown()
            thread.join()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-10-binary.tar.gz"]
    assert load(spec("cifar10", None)).fingerprint == first.fingerprint
    (tmp_path / "cache" / "cifar-10-binary.tar.gz").unlink()
    monkeypatch.setitem(cifar.BINARY, "cifar10", dataclasses.replace(cifar.BINARY["cifar10"], mirrors=mirrors[:1]))
    fails(spec("cifar10", None), "could not download cifar-10-binary.tar.gz .* PRUNEPHASE_DATA=folder or data.path")


def test_the_checksums_are_those_that_are_published() -> None:
    assert cifar.BINARY["cifar10"].md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert cifar.BINARY["cifar100"].md5 == "03b5dce01913d631647c71ecec9e9cb8"
    assert sum(count for _, count in cifar.BINARY["cifar10"].train) == 50_000
    assert sum(count for _, count in cifar.BINARY["cifar100"].train) == 50_000


# -- parquet files of images


def picture(pixels: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels.reshape(3, 32, 32), 0, -1)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def parquet(path: Path, rows: np.ndarray, names: tuple[str, str], labels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [picture(row[labels:]) for row in rows]
    pl.DataFrame({names[0]: pictures, names[1]: rows[:, labels - 1].astype(np.int64)}).write_parquet(path)


@pytest.mark.parametrize(
    ("source", "name", "columns"),
    [
        ("cifar10", "cifar10-{}.parquet", ("image", "label")),
        ("cifar10", "plain_text/{}-00000-of-00001.parquet", ("img", "label")),
        ("cifar100", "cifar100/{}-00000-of-00001.parquet", ("img", "fine_label")),
    ],
)
@pytest.mark.parametrize("small", [2**24, 1])
def test_parquet_files_of_lossless_images_are_the_archive(
    source: str,
    name: str,
    columns: tuple[str, str],
    small: int,
    files: Any,
    archive: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "SMALL", small)
    content = files(source)
    train = np.concatenate([array for file, array in content.items() if "test" not in file])
    folder, labels = tmp_path / "hub", 1 if source == "cifar10" else 2
    parquet(folder / name.format("train"), train, columns, labels)
    parquet(folder / name.format("test"), content[cifar.BINARY[source].test[0][0]], columns, labels)
    expected = load(spec(source, archive(source, content)))
    for _ in range(2):
        assert load(spec(source, folder)).fingerprint == expected.fingerprint
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == (2 if small == 1 else 0)


def test_parquet_files_that_cannot_be_used_are_named(files: Any, tmp_path: Path) -> None:
    rows = files("cifar10")["test_batch.bin"]
    names = [tmp_path / f"cifar10-{part}.parquet" for part in ("train", "test")]
    parquet(names[1], rows, ("image", "label"))
    fails(spec("cifar10", tmp_path), "holds no cifar-10-binary.tar.gz")
    parquet(names[0], rows, ("picture", "label"))
    fails(spec("cifar10", tmp_path), "has columns picture, label; expected image")
    names[0].write_bytes(names[1].read_bytes()[:-9])
    fails(spec("cifar10", tmp_path), "is not a parquet table")
    for bad, said in ((b"text", "row 3: cannot be read as an image"), (None, "row 3: cannot be read as an image")):
        pictures = [picture(row[1:]) for row in rows]
        pictures[3]["bytes"] = bad
        pl.DataFrame({"image": pictures, "label": rows[:, 0]}).write_parquet(names[0])
        fails(spec("cifar10", tmp_path), said)
    file = io.BytesIO()
    Image.new("RGB", (5, 4)).save(file, "png")
    pictures[3]["bytes"] = file.getvalue()
    pl.DataFrame({"image": pictures, "label": rows[:, 0]}).write_parquet(names[0])
    fails(spec("cifar10", tmp_path), "row 3 is 4 x 5 pixels; expected 32 x 32")
    pl.DataFrame({"image": [1, 2], "label": [0, 1]}).write_parquet(names[0])
    fails(spec("cifar10", tmp_path), "expected image")
    pl.DataFrame({"image": [{"path": "a"}] * 2, "label": [0, 1]}).write_parquet(names[0])
    fails(spec("cifar10", tmp_path), "column 'image' holds .*; expected bytes in it")


# -- constants


@pytest.mark.parametrize(
    ("normalise", "mean", "deviation"),
    [
        ("default", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("cifar", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_channels_are_normalised_each_by_its_constants(
    normalise: Any, mean: tuple[float, ...], deviation: tuple[float, ...], files: Any, archive: Any
) -> None:
    content = files("cifar10")
    data = load(spec("cifar10", archive("cifar10", content), normalise=normalise))
    rows = np.concatenate([content["data_batch_1.bin"], content["data_batch_2.bin"]])
    images = rows[:, 1:].reshape(-1, 3, 32, 32) / 255
    for c in range(3):
        expected = (images[:, c] - mean[c]) / deviation[c]
        np.testing.assert_allclose(data.train.inputs[:, c].numpy(), expected, atol=1e-6)
    assert data.black is not None
    np.testing.assert_allclose(data.black.numpy(), -np.array(mean) / deviation, atol=1e-6)
    # What black is must be the very number that a black pixel has.
    dark = data.train.inputs[:, 1][torch.from_numpy(images[:, 1] == 0)]
    assert len(dark) > 0
    assert (dark == data.black[1]).all()


def test_cifar100_has_constants_of_its_own(archive: Any) -> None:
    data = load(spec("cifar100", archive("cifar100")))
    assert data.black is not None
    expected = -np.array([0.5071, 0.4867, 0.4408]) / [0.2675, 0.2565, 0.2761]
    np.testing.assert_allclose(data.black.numpy(), expected, atol=1e-6)


def test_constants_of_colours_need_three_channels(tmp_path: Path) -> None:
    for shape in ((28, 28), (1, 28, 28), (3,)):
        np.savez(tmp_path / "d.npz", x=DRAW.integers(0, 256, (40, *shape), np.uint8), y=np.arange(40) % 2)
        wanted = sections.Data(source="npz", path=str(tmp_path / "d.npz"), normalise="imagenet")
        fails(wanted, r"data.normalise = 'imagenet': has constants for 3 channels, but the inputs are \[40, ")


def test_black_is_known_for_images_of_bytes_alone(tmp_path: Path) -> None:
    y = np.arange(40) % 2
    for x, expected in (
        (np.full((40, 2, 2), 51, np.uint8), [0.0]),
        (np.full((40, 2, 2, 2), 51, np.uint8), [0.0, 0.0]),
        (np.full((40, 3), 51, np.uint8), None),
        (np.full((40, 2, 2, 2), 0.5, np.float32), None),
    ):
        np.savez(tmp_path / "d.npz", x=x, y=y)
        black = load(sections.Data(source="npz", path=str(tmp_path / "d.npz"), normalise="none")).black
        assert (None if black is None else black.tolist()) == expected


# -- superclasses and human labels

# The list that everybody who needs it copies, as torchvision's fine labels count.
COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15
13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5
8 19 18 1 2 15 6 0 17 8 14 13
"""


def test_superclasses_are_twenty_of_five() -> None:
    assert tuple(int(c) for c in COARSE.split()) == SUPERCLASS
    assert np.bincount(SUPERCLASS).tolist() == [5] * 20


def test_cifar_n_finds_the_labels_or_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNEPHASE_DATA", raising=False)
    with pytest.raises(UserError, match=r"no cifar10n.npz or CIFAR-10_human.pt in PRUNEPHASE_DATA \(not set\)"):
        cifar_n("cifar10")
    with pytest.raises(UserError, match=r"data.source = 'mnist' has no human labels of its own"):
        cifar_n("mnist", tmp_path)
    (tmp_path / "CIFAR-10_human.pt").touch()
    assert cifar_n("cifar10", tmp_path).name == "CIFAR-10_human.pt"
    (tmp_path / "cifar10n.npz").touch()
    monkeypatch.setenv("PRUNEPHASE_DATA", str(tmp_path))
    assert cifar_n("cifar10").name == "cifar10n.npz"
    (tmp_path / "CIFAR-100_human.pt").touch()
    assert cifar_n("cifar100") == tmp_path / "CIFAR-100_human.pt"


@pytest.mark.usefixtures("forked_child")
@pytest.mark.parametrize("zipped", [True, False])
def test_pt_files_give_arrays_tensors_and_lists(tmp_path: Path, zipped: bool) -> None:
    clean, path = np.arange(300) % 10, tmp_path / "CIFAR-10_human.pt"
    for worse in (clean.astype(np.uint8), torch.from_numpy(clean), clean.tolist(), clean.astype(np.float32)):
        torch.save({"clean_label": clean, "worse_label": worse}, path, _use_new_zipfile_serialization=zipped)
        for key in ("worse_label", None):
            labels, truth = read_labels(path, key, "noise.path")
            assert labels.tolist() == clean.tolist()
            assert truth is not None
            assert truth.tolist() == clean.tolist()


@pytest.mark.usefixtures("forked_child")
def test_the_pickle_of_an_older_numpy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"worse_label": np.arange(10)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    ours, theirs = sorted([b"numpy._core.multiarray", b"numpy.core.multiarray"], key=lambda name: name not in content)
    assert ours in content
    path.write_bytes(content.replace(ours, theirs))
    assert read_labels(path, None, "noise.path")[0].tolist() == list(range(10))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.usefixtures("forked_child")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_executes_nothing(tmp_path: Path, zipped: bool) -> None:
    bait = tmp_path / "executed"
    held = np.array([Hostile(bait)], dtype=object)
    for value in (Hostile(bait), {"a": Hostile(bait)}, {"a": held}, np.array([1]), ["a"], {1: 2}):
        torch.save(value, tmp_path / "h.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"h.pt': holds .*; save the labels with np.savez") as e:
            read_labels(tmp_path / "h.pt", None, f"noise.path = '{tmp_path / 'h.pt'}'")
        assert "\n" not in str(e.value)
        assert not bait.exists()
    (tmp_path / "h.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"is empty; save the labels with np.savez"):
        read_labels(tmp_path / "h.pt", None, f"noise.path = '{tmp_path / 'h.pt'}'")


# -- the real thing


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("PRUNEPHASE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "cifar10-train.parquet").is_file():
        pytest.skip("needs CIFAR-10 as parquet: name its folder with PRUNEPHASE_DATA")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEPHASE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


def test_real_cifar10_is_decoded_once_and_stands_in_the_order_of_cifar10n(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sections.Data(source="cifar10")
    data = load(wanted, home=real)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.input_shape == (3, 32, 32)
    # The constants are those of these pixels, but for what JPEG took.
    assert data.train.inputs.mean((0, 2, 3)).abs().max() < 0.01
    assert (data.train.inputs.std((0, 2, 3)) - 1).abs().max() < 0.02
    labels = torch.empty(50_000, dtype=torch.int64)
    for split in data.noisy:
        labels[split.index] = split.labels
    if (real / "cifar10n.npz").is_file():
        worse, clean = read_labels(cifar_n("cifar10", real), "worse_label", "noise.path")
        assert clean is not None
        assert (labels.numpy() == clean).all()
        assert round(float((worse != clean).mean()), 4) == 0.4021
    assert torch.bincount(labels).tolist() == [5_000] * 10

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(cifar, "pixels", never)
    arrays = cifar.cifar10(wanted, real)
    assert arrays.test_inputs is not None
    for c, (mean, deviation) in enumerate(zip(*cifar.BINARY["cifar10"].constants, strict=True)):  # type: ignore[arg-type]
        expected = (arrays.test_inputs[:, c] / np.float64(255) - mean) / deviation
        assert np.abs(data.test.inputs[:, c].numpy() - expected).max() < 1e-6
