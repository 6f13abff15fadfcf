"""Loading, splitting and normalising; digits and MNIST."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunephase import sections
from prunephase.data import Arrays, Dataset, load, mnist
from prunephase.data.check import check
from prunephase.data.load import SOURCES, _places
from prunephase.errors import UserError


@pytest.fixture
def mnist_folder() -> Path:
    folder = Path(os.environ.get("PRUNEPHASE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST: name its folder with PRUNEPHASE_DATA")
    return folder


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def save(path: Path, x: np.ndarray, y: np.ndarray, **others: np.ndarray) -> sections.Data:
    np.savez(path / "data.npz", x_train=x, y_train=y, **others)
    return sections.Data(source="npz", path=str(path / "data.npz"))


def tensors(data: Dataset) -> list[torch.Tensor]:
    splits = [s for s in (data.train, data.validation, data.test) if s is not None]
    return [t for s in splits for t in (s.inputs, s.labels, s.truth, s.permuted, s.index)]


def test_every_source_that_a_trial_may_name_is_there() -> None:
    assert tuple(SOURCES) == sections.SOURCES


def test_digits_come_as_normalised_float_images_in_three_disjoint_splits() -> None:
    data = load(sections.Data())
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    assert data.input_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.examples == 1797
    assert data.train.inputs.dtype == torch.float32
    assert data.train.inputs.is_contiguous()
    places = torch.cat([data.train.index, data.validation.index, data.test.index])
    assert sorted(places.tolist()) == list(range(1797))
    assert abs(float(data.train.inputs.double().mean())) < 1e-6
    assert abs(float(data.train.inputs.double().std(correction=0)) - 1) < 1e-6
    assert not data.train.permuted.any()


def test_loading_twice_gives_the_same_bytes_and_touches_no_global_generator() -> None:
    numpys, torchs = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, second = load(sections.Data(seed=3)), load(sections.Data(seed=3))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
    assert first.fingerprint == second.fingerprint
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torchs)


def test_the_split_depends_on_its_seed_and_the_fingerprint_does_not() -> None:
    first, second = load(sections.Data(seed=0)), load(sections.Data(seed=1))
    assert not torch.equal(first.train.index, second.train.index)
    assert first.fingerprint == second.fingerprint


def test_train_is_an_exact_number_and_leaves_validation_and_test_as_they_are() -> None:
    small, large = load(sections.Data(train=500)), load(sections.Data(train=1000))
    assert len(small.train) == 500
    assert set(small.train.index.tolist()) < set(large.train.index.tolist())
    assert small.validation is not None
    assert large.validation is not None
    assert torch.equal(small.validation.index, large.validation.index)
    assert torch.equal(small.test.index, large.test.index)


def test_more_training_examples_than_there_are_is_an_error_that_counts() -> None:
    with pytest.raises(
        UserError, match=r"data.train = 1295: only 1294 of 1797 .* \(359 go to test, 144 to validation\)"
    ) as e:
        load(sections.Data(train=1295))
    one_line(e)


@given(st.integers(4, 300), st.floats(0, 0.99), st.floats(0.01, 0.99), st.booleans(), st.integers(0, 5))
def test_splits_part_the_source_whatever_the_shares(
    n: int, validation: float, test: float, own: bool, seed: int
) -> None:
    spec = sections.Data(validation=validation, test=test, seed=seed)
    try:
        splits = _places(spec, n, own)
    except UserError:
        tested = 0 if own else round(test * n)
        held = round(validation * (n - tested))
        assert n - tested - held < 2 or (validation > 0 and held < 2) or (not own and tested < 2)
    else:
        assert sorted(np.concatenate(splits).tolist()) == list(range(n))
        assert all((np.diff(places) > 0).all() for places in splits)


def test_validation_zero_gives_none() -> None:
    data = load(sections.Data(validation=0.0))
    assert data.validation is None
    assert len(data.train) == 1438


def test_normalise_train_is_per_feature_and_per_channel(tmp_path: Path) -> None:
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    features = load(save(tmp_path, rng.normal([5, -2, 0], [1, 10, 0], (60, 3)), y)).train.inputs.double()
    assert torch.allclose(features.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(features.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]).double(), atol=1e-6)
    channels = rng.normal(0, 1, (60, 2, 4, 4)) * np.array([1, 9]).reshape(2, 1, 1)
    inputs = load(save(tmp_path, channels, y)).train.inputs
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5)


def test_images_of_uint8_become_fractions_but_features_of_uint8_do_not(tmp_path: Path) -> None:
    y, x = np.arange(40) % 2, np.full((40, 2, 2), 255, np.uint8)
    assert load(save(tmp_path, x, y).model_copy(update={"normalise": "none"})).train.inputs.max() == 1
    assert load(save(tmp_path, x[:, 0], y).model_copy(update={"normalise": "none"})).train.inputs.max() == 255


def test_the_fingerprint_sees_one_pixel_one_label_and_the_type(tmp_path: Path) -> None:
    x, y = np.zeros((40, 2), np.float32), np.arange(40) % 2
    x2, y2 = x.copy(), y.copy()
    x2[7, 1], y2[7] = 1, 1 - y2[7]
    prints = [
        load(save(tmp_path, a, b)).fingerprint for a, b in ((x, y), (x2, y), (x, y2), (x.view(np.int32), y), (x, y))
    ]
    assert len(set(prints)) == 4
    assert prints[0] == prints[-1]


def test_true_labels_mark_the_wrong_ones_and_clean_the_test_split(tmp_path: Path) -> None:
    truth = np.arange(60) % 3
    labels = np.where(np.arange(60) < 20, (truth + 1) % 3, truth)
    data = load(save(tmp_path, np.eye(60), labels, y_clean=truth))
    assert torch.equal(data.train.permuted, data.train.index < 20)
    assert torch.equal(data.train.truth, data.train.index % 3)
    assert torch.equal(data.test.labels, data.test.index % 3)


def test_a_class_missing_from_the_training_split_is_an_error_with_counts(tmp_path: Path) -> None:
    labels = np.zeros(50, int)
    labels[0] = 1
    spec = save(tmp_path, np.eye(50), labels).model_copy(update={"train": 2})
    with pytest.raises(
        UserError, match=r"class '1' has no example in the training split \(counts by class: 2, 0\)"
    ) as e:
        load(spec)
    one_line(e)


GOOD = np.arange(12).reshape(6, 2) / 10
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (GOOD, [0, 1, 2, 0, -1, 2], "label -1 at index 4"),
        (GOOD, [0, 1, 2, 0, -100, 2], "label -100 at index 4"),
        (GOOD, [0, 1, 2, 0, 1.5, 2], "label 1.5 at index 4"),
        (GOOD, [0, 1, 2, 0, np.nan, 2], "label nan at index 4"),
        (GOOD, [0, 1, 3, 0, 1, 3], "class 2 has no training example"),
        (GOOD, [1, 2, 1, 2, 1, 2], "class 0 has no training example"),
        (GOOD, [0, 1, 10**15, 0, 1, 2], "class 3 has no training example"),
        (GOOD, [0, 0, 0, 0, 0, 0], "one class only"),
        (GOOD, np.eye(6), r"shape \[6, 6\]; .* one-hot\? take argmax"),
        (GOOD, [0, 1, 2], "3 training labels for 6 inputs"),
        (GOOD, [0, 1j, 2, 0, 1, 2], "are complex128"),
        (GOOD, [None, 1, 2, 0, 1, 2], "are object"),
        (GOOD[:0], [], r"0 example\(s\)"),
        (GOOD[:1], [0], r"1 example\(s\)"),
        (GOOD[:, :0], LABELS, r"shape \[6, 0\]"),
        (GOOD[:, 0], LABELS, r"shape \[6\]"),
        (GOOD.astype(str), LABELS, "expected real numbers"),
        (np.where(GOOD == 0.7, np.nan, GOOD), LABELS, "NaN or Inf in the example at index 3"),
        (np.where(GOOD == 0.7, -np.inf, GOOD), LABELS, "NaN or Inf in the example at index 3"),
        (np.zeros((6, 8, 8, 3)), LABELS, "channels last"),
    ],
)
def test_data_that_cannot_be_used_are_named_in_one_line(inputs: np.ndarray, labels: list[float], said: str) -> None:
    with pytest.raises(UserError, match=said) as e:
        check(Arrays(np.asarray(inputs), np.array(labels)), "npz")
    one_line(e)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((4, 3)), [0, 1, 2, 0], "examples differ in shape"),
        (np.zeros((4, 2)), [0, 1, 3, 0], "test labels: label 3 at index 2, but there are 3 classes"),
        (np.zeros((4, 2)), [0, 1], "2 test labels for 4 inputs"),
        (np.zeros((1, 2)), [0], "test inputs: 1 example"),
        (None, [0], "belong together"),
    ],
)
def test_test_sets_that_do_not_fit_are_named(x: np.ndarray | None, y: list[int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(Arrays(GOOD, LABELS, x, np.array(y)), "npz")


def test_inputs_too_large_for_float32_are_an_error(tmp_path: Path) -> None:
    spec = save(tmp_path, np.full((40, 2), 1e300), np.arange(40) % 2).model_copy(update={"normalise": "none"})
    with pytest.raises(UserError, match="too large for float32"):
        load(spec)


def test_finite_inputs_whose_sum_overflows_are_fine() -> None:
    assert len(check(Arrays(np.full((6, 2), 1e308), LABELS), "npz").labels) == 6


@given(st.lists(st.integers(-2, 4), min_size=2, max_size=12))
def test_labels_are_taken_exactly_when_they_are_0_to_k_without_gaps(labels: list[int]) -> None:
    good = set(labels) == set(range(len(set(labels)))) and len(set(labels)) > 1
    try:
        checked = check(Arrays(np.zeros((len(labels), 1)), np.array(labels)), "npz")
    except UserError:
        assert not good
    else:
        assert good
        assert len(checked.classes) == len(set(labels))


def test_names_and_booleans_become_the_places_of_the_sorted_names() -> None:
    checked = check(Arrays(GOOD, np.array(["cat", "ant", "bee"] * 2, dtype=object)), "x")
    assert checked.classes == ("ant", "bee", "cat")
    assert checked.labels.tolist() == [2, 0, 1, 2, 0, 1]
    checked = check(Arrays(GOOD, np.array([True, False] * 3)), "x")
    assert checked.classes == ("False", "True")
    assert checked.labels.tolist() == [1, 0] * 3
    with pytest.raises(UserError, match="'dog' at index 1 is no class of the training set"):
        check(Arrays(GOOD, np.array(["cat", "ant", "bee"] * 2), GOOD[:2], np.array(["cat", "dog"])), "x")


def test_mnist_comes_from_a_folder_with_its_own_test_set(mnist_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEPHASE_DATA", str(mnist_folder))
    data = load(sections.Data(source="mnist"))
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (54000, 6000, 10000)
    assert data.input_shape == (1, 28, 28)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.test.inputs.min() == pytest.approx(-0.1307 / 0.3081, abs=1e-6)
    assert data.test.inputs.max() == pytest.approx((1 - 0.1307) / 0.3081, abs=1e-6)
    assert abs(float(data.train.inputs.mean())) < 1e-3


def test_a_folder_without_the_files_and_a_file_of_other_bytes_are_errors(tmp_path: Path) -> None:
    spec = sections.Data(source="mnist", path=str(tmp_path))
    with pytest.raises(UserError, match=r"holds no train-images-idx3-ubyte.gz") as e:
        load(spec)
    one_line(e)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 other")
    with pytest.raises(UserError, match="is not MNIST's train-images"):
        load(spec)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match="cannot be read") as e:
        load(spec)
    one_line(e)
    with pytest.raises(UserError, match="no such folder"):
        load(sections.Data(source="mnist", path=str(tmp_path / "absent")))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


NAME = "train-labels-idx1-ubyte"
CONTENT = b"\0\0\x08\x01\0\0\0\x02" + bytes(range(100))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mirrors: good/, other/ (wrong bytes), cut/ (truncated archive), absent/ (404)."""
    archives = {"good": gzip.compress(CONTENT), "other": gzip.compress(b"other"), "cut": gzip.compress(CONTENT)[:-12]}
    for folder, archive in archives.items():
        (tmp_path / "www" / folder).mkdir(parents=True)
        (tmp_path / "www" / folder / f"{NAME}.gz").write_bytes(archive)
    monkeypatch.setitem(mnist.SHA256, NAME, hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path / "www")) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.mark.parametrize("first", ["other", "cut", "absent"])
def test_a_bad_first_mirror_is_passed_over(server: str, tmp_path: Path, first: str) -> None:
    path = mnist.download(NAME, [f"{server}/{first}/", f"{server}/good/"], tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [NAME]


def test_what_is_in_the_cache_is_verified_and_not_fetched_again(server: str, tmp_path: Path) -> None:
    mnist.download(NAME, [f"{server}/good/"], tmp_path)
    assert mnist.download(NAME, [f"{server}/absent/"], tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert mnist.download(NAME, [f"{server}/good/"], tmp_path).read_bytes() == CONTENT


def test_no_good_mirror_keeps_nothing_and_says_where_to_put_the_files(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/other/", f"{server}/cut/", "http://127.0.0.1:9/"]
    with pytest.raises(UserError, match=r"could not download .*PRUNEPHASE_DATA=folder or data\.path") as e:
        mnist.download(NAME, mirrors, tmp_path / "cache")
    one_line(e)
    assert list((tmp_path / "cache").iterdir()) == []
