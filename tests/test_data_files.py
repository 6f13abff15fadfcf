"""Data of the user's own: npz, tables, folders of images, functions."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prunephase import sections
from prunephase.data import load
from prunephase.data.files import read_npz, read_table
from prunephase.errors import UserError


def fails(spec: sections.Data, said: str, plugins: tuple[str, ...] = ()) -> None:
    with pytest.raises(UserError, match=said) as e:
        load(spec, plugins)
    assert "\n" not in str(e.value)


# npz


def npz(path: Path, **arrays: np.ndarray) -> sections.Data:
    np.savez(path / "d.npz", **arrays)
    return sections.Data(source="npz", path=str(path / "d.npz"))


X, Y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2


def test_npz_is_read_by_either_pair_of_names_and_keeps_its_test_set(tmp_path: Path) -> None:
    short, long = load(npz(tmp_path, x=X, y=Y)), load(npz(tmp_path, x_train=X, y_train=Y))
    assert torch.equal(short.train.inputs, long.train.inputs)
    data = load(npz(tmp_path, x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5]))
    assert data.test.index.tolist() == [0, 1, 2, 3, 4]
    assert data.validation is not None
    assert len(data.train) + len(data.validation) == 40


def test_npz_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    fails(sections.Data(source="npz", path=str(tmp_path / "no.npz")), "no such file or folder")
    fails(npz(tmp_path, inputs=X, y_train=Y), "holds inputs, y_train; expected x_train and y_train")
    fails(npz(tmp_path, x=X, y=np.array([[1], None] * 20, dtype=object)), "is not an npz archive of plain arrays")
    fails(npz(tmp_path, x=X, y=Y, x_test=X), "belong together")
    fails(npz(tmp_path, x=X, y=Y, y_clean=Y[:3]), "3 true labels for 40 inputs")
    (tmp_path / "d.npz").write_text("x,y\n1,2\n")
    fails(sections.Data(source="npz", path=str(tmp_path / "d.npz")), "is not an npz archive")


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_archive_or_table_never_ends_in_another_error(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    np.savez_compressed(folder / "a.npz", x=X, y=Y)
    pl.DataFrame({"a": X[:, 0], "label": Y}).write_parquet(folder / "a.parquet")
    name, read = data.draw(st.sampled_from([("a.npz", read_npz), ("a.parquet", read_table)]))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UserError):
        read(folder / name, "data.path")  # type: ignore[operator]


# tables

FRAME = pl.DataFrame({"a": range(30), "b": [i / 7 for i in range(30)], "label": [i % 3 for i in range(30)]})


def table(path: Path, frame: pl.DataFrame, name: str = "d.csv", **fields: Any) -> sections.Data:
    frame.write_csv(path / name) if name.endswith("csv") else frame.write_parquet(path / name)
    return sections.Data(source="table", path=str(path / name), **fields)


def test_csv_and_parquet_give_the_same_examples(tmp_path: Path) -> None:
    csv, parquet = load(table(tmp_path, FRAME)), load(table(tmp_path, FRAME, "d.parquet"))
    assert csv.input_shape == (2,)
    assert torch.equal(csv.train.inputs, parquet.train.inputs)
    assert csv.fingerprint == parquet.fingerprint
    assert torch.equal(csv.train.labels, csv.train.index % 3)


def test_a_table_may_bring_the_true_labels_and_names_for_labels(tmp_path: Path) -> None:
    names = ["cherry", "apple", "banana"]
    frame = FRAME.with_columns(
        label=pl.Series([names[(i + (i < 9)) % 3] for i in range(30)]),
        true=pl.Series([names[i % 3] for i in range(30)]),
    )
    data = load(table(tmp_path, frame, truth="true"))
    assert data.classes == ("apple", "banana", "cherry")
    assert data.train.truth.tolist() == [[2, 0, 1][i % 3] for i in data.train.index.tolist()]
    assert torch.equal(data.train.permuted, data.train.index < 9)
    assert data.input_shape == (2,)


def test_a_folder_of_tables_has_its_own_test_set_in_any_order_of_columns(tmp_path: Path) -> None:
    table(tmp_path, FRAME, "train.csv")
    table(tmp_path, FRAME.head(6).select("label", "b", "a"), "test.parquet")
    data = load(sections.Data(source="table", path=str(tmp_path), normalise="none"))
    assert data.test.inputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_test_table_with_true_labels_is_judged_by_them(tmp_path: Path) -> None:
    noisy = FRAME.with_columns(true=pl.col("label"), label=(pl.col("label") + 1) % 3)
    table(tmp_path, noisy, "train.csv")
    table(tmp_path, noisy.head(6), "test.csv")
    data = load(sections.Data(source="table", path=str(tmp_path), truth="true"))
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    table(tmp_path, noisy.head(6).drop("true"), "test.csv")
    data = load(sections.Data(source="table", path=str(tmp_path), truth="true"))
    assert data.test.labels.tolist() == [1, 2, 0, 1, 2, 0]


def test_tables_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    n = len(FRAME)
    fails(table(tmp_path, FRAME, label="lable"), "data.label = 'lable': no such column in d.csv; did you mean 'label'")
    fails(table(tmp_path, FRAME, truth="clean"), "data.truth = 'clean': no such column")
    colour = FRAME.with_columns(colour=pl.Series(["red"] * n))
    fails(table(tmp_path, colour), "column 'colour' is String, not numeric; drop it or encode it")
    fails(table(tmp_path, FRAME.with_columns(flag=pl.lit(True))), "column 'flag' is Boolean, not numeric")
    hole = FRAME.with_columns(b=pl.when(pl.col("a") == 4).then(None).otherwise(pl.col("b")))
    fails(table(tmp_path, hole), "column 'b' is empty, NaN or Inf in row 4")
    hole = FRAME.with_columns(label=pl.when(pl.col("a") == 4).then(None).otherwise(pl.col("label")))
    fails(table(tmp_path, hole), "column 'label' is empty in row 4")
    fails(table(tmp_path, FRAME.with_columns(label=pl.col("label") - 1)), "label -1 at index 0")
    fails(table(tmp_path, FRAME.with_columns(label=pl.col("label") / 2)), "label 0.5 at index 1")
    fails(table(tmp_path, FRAME.select("label")), "no column but the labels")
    fails(table(tmp_path, FRAME.clear()), "has no rows")
    listed = FRAME.with_columns(label=pl.lit([1, 2]))
    fails(table(tmp_path, listed, "d.parquet"), r"column 'label' is List\(.*\); expected labels")
    (tmp_path / "d.csv").write_text("")
    fails(sections.Data(source="table", path=str(tmp_path / "d.csv")), "is not a csv table")
    (tmp_path / "d.parquet").write_text("a,label\n1,2\n")
    fails(sections.Data(source="table", path=str(tmp_path / "d.parquet")), "is not a parquet table")
    (tmp_path / "d.xlsx").write_text("a")
    fails(sections.Data(source="table", path=str(tmp_path / "d.xlsx")), "'.xlsx' is neither .csv nor .parquet")
    fails(sections.Data(source="table", path=str(tmp_path)), "holds neither train.csv nor train.parquet")
    table(tmp_path, FRAME, "train.csv")
    table(tmp_path, FRAME.rename({"b": "c"}), "test.csv")
    fails(
        sections.Data(source="table", path=str(tmp_path)), r"columns differ from those of the training table \(b, c\)"
    )


# images


def paint(file: Path, colour: Any, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)


def images(root: Path, each: int = 10, **fields: Any) -> sections.Data:
    for i in range(each):
        paint(root / "red" / f"{i:02}.png", (255, i, 0))
        paint(root / "blue" / f"{i:02}.png", (0, i, 255))
    return sections.Data(source="folder", path=str(root), normalise="none", **fields)


def test_a_folder_of_images_gives_channels_first_and_classes_by_name(tmp_path: Path) -> None:
    data = load(images(tmp_path))
    assert data.classes == ("blue", "red")
    assert data.input_shape == (3, 4, 4)
    assert torch.equal(data.train.inputs[:, 0, 0, 0], data.train.labels.float())
    assert torch.equal(data.train.inputs[:, 1, 0, 0], (data.train.index % 10).float() / 255)


def test_pixels_keep_their_places(tmp_path: Path) -> None:
    spec = images(tmp_path)
    for file in tmp_path.rglob("*.png"):
        with Image.open(file) as image:
            image.putpixel((3, 1), (9, 8, 7))
            image.save(file)
    inputs = load(spec).train.inputs * 255
    assert inputs[:, :, 1, 3].round().tolist() == [[9, 8, 7]] * len(inputs)


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    images(tmp_path / "train")
    images(tmp_path / "test", 2)
    data = load(sections.Data(source="folder", path=str(tmp_path), validation=0.0))
    assert (len(data.train), len(data.test)) == (20, 4)
    assert data.test.labels.tolist() == [0, 0, 1, 1]


def test_images_of_other_sizes_need_size_and_other_modes_become_rgb(tmp_path: Path) -> None:
    spec = images(tmp_path)
    paint(tmp_path / "red" / "zz.png", 7, (6, 4), "L")
    fails(spec, "zz.png: is 4 x 6 pixels, but the first image is 4 x 4; set data.size")
    data = load(spec.model_copy(update={"size": 5}))
    assert data.input_shape == (3, 5, 5)
    assert data.examples == 21


def test_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    spec = images(tmp_path)
    odd = tmp_path / "red" / "odd.png"
    odd.write_bytes((tmp_path / "red" / "00.png").read_bytes()[:40])
    fails(spec, "odd.png: cannot be read as an image")
    odd.write_text("text")
    fails(spec, "odd.png: cannot be read as an image")
    paint(odd, 40_000, mode="I;16")
    fails(spec, "odd.png: has more than 8 bits a pixel")
    odd.unlink()
    (tmp_path / "red" / ".DS_Store").write_text("ignored")
    load(spec)
    (tmp_path / "green").mkdir()
    fails(spec, "green: a class without images")
    fails(sections.Data(source="folder", path=str(tmp_path / "green")), "holds no class folders")
    fails(sections.Data(source="folder", path=str(tmp_path / "red" / "00.png")), "is a file; give the folder")
    (tmp_path / "green").rmdir()
    paint(tmp_path / "red" / "01.png", 0)
    (tmp_path / "train").mkdir()
    images(tmp_path / "train")
    paint(tmp_path / "test" / "green" / "0.png", 0)
    paint(tmp_path / "test" / "green" / "1.png", 0)
    fails(spec, "'green' at index 0 is no class of the training set")


# functions

SOURCE = """
import numpy as np, torch
from PIL import Image
from prunephase.data import Arrays
from torch.utils.data import IterableDataset, TensorDataset

X, Y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2

class Pictures:
    def __len__(self): return 40
    def __getitem__(self, i): return Image.new("RGB", (4, 6), (i, 0, 0)), int(i % 2)

class Triples(Pictures):
    def __getitem__(self, i): return 1.0, 0, i

class Ragged(Pictures):
    def __getitem__(self, i): return torch.zeros(2 + (i == 3)), i % 2

class Stream(IterableDataset):
    def __iter__(self): yield 1

def arrays(): return Arrays(X, Y)
def named(): return {"x_train": torch.tensor(X), "y_train": Y, "y_clean": None}
def pair(): return X, torch.tensor(Y)
def dataset(): return TensorDataset(torch.tensor(X), torch.tensor(Y))
def datasets(): return dataset(), TensorDataset(torch.tensor(X[:4]), torch.tensor(Y[:4]))
def four(): return X, Y, X[:4], Y[:4]
def scaled(factor): return X * factor, Y
def pictures(): return Pictures()
def triples(): return Triples()
def ragged(): return Ragged()
def stream(): return Stream()
def nothing(): return None
def broken(): raise OSError("disk\\non fire")
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mydata.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mydata", raising=False)
    return "mydata"


def test_every_form_that_a_function_may_return_gives_the_same_data(source: str) -> None:
    specs = {name: sections.Data(source=f"{source}:{name}") for name in ("arrays", "named", "pair", "dataset")}
    found = {name: load(spec, [source]) for name, spec in specs.items()}
    assert len({data.fingerprint for data in found.values()}) == 1
    for name in ("datasets", "four"):
        data = load(sections.Data(source=f"{source}:{name}"), [source])
        assert data.test.labels.tolist() == [0, 1, 0, 1]
        assert data.examples == 40


def test_a_function_gets_its_arguments_and_images_come_channels_first(source: str) -> None:
    one, two = (sections.Data(source=f"{source}:scaled", kwargs={"factor": f}, normalise="none") for f in (1, 2))
    assert torch.equal(load(one, [source]).train.inputs * 2, load(two, [source]).train.inputs)
    data = load(sections.Data(source=f"{source}:pictures", normalise="none"), [source])
    assert data.input_shape == (3, 6, 4)
    assert torch.equal(data.train.inputs[:, 0, 0, 0], data.train.index.float() / 255)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("triples", "item 0 is tuple; expected a pair"),
        ("ragged", r"input 3 has shape \[3\], the first \[2\]"),
        ("stream", "returned Stream; expected"),
        ("nothing", "returned NoneType; expected"),
        ("broken", "failed with OSError: disk"),
        ("scaled", "failed with TypeError"),
        ("absent", "cannot be imported"),
    ],
)
def test_functions_that_give_something_else_are_named(source: str, name: str, said: str) -> None:
    fails(sections.Data(source=f"{source}:{name}"), said, (source,))


def test_no_module_is_imported_that_was_not_allowed(source: str) -> None:
    fails(sections.Data(source=f"{source}:arrays"), "--plugins mydata")
    assert source not in sys.modules
