"""Times `prunephase.engine.fit` and `evaluate` against a plain loop that does what the papers' code does.

    python benchmarks/fit.py --data FOLDER_WITH_MNIST --rounds 7 --epochs-share 0.1

The plain loop (OpenLTH, on which He et al. 2022 build): a DataLoader that turns each image into a PIL image, a tensor
and a normalised tensor; masks multiplied into the weights before every forward; the training and the test set
evaluated through DataLoaders after every epoch. LeNet-300-100, batch 128, SGD, one thread, no loader processes. Both
take turns within one run, so that a busy machine slows both; the ratio of each round is what to quote. Needs the extra
[images].
"""

# N examples, B batch, C channels, H height, W width.

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from prunephase import data, models, streams, trial
from prunephase.data import Arrays, Split
from prunephase.data.mnist import mnist
from prunephase.engine import fit
from prunephase.errors import UserError
from prunephase.measure import evaluate

BATCH = 128
MEAN, DEVIATION = 0.1307, 0.3081
SPARSITY = 0.89  # level 10, near the dip; the speed of either loop does not depend on it


class Images(Dataset[tuple[Tensor, int]]):
    """Images as the papers' code serves them: one by one, through PIL. inputs: [N, H, W] uint8; labels: [N]."""

    def __init__(self, inputs: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.inputs[index])
        # The steps of torchvision's ToTensor and Normalize, which copy once each.
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(*image.size[::-1], 1)
        tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255).clone()
        mean, deviation = torch.as_tensor([MEAN]), torch.as_tensor([DEVIATION])
        assert not (deviation == 0).any()
        return tensor.sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1)), int(self.labels[index])


class Masked(nn.Module):
    """A network whose masks are multiplied into its weights before every forward."""

    def __init__(self, network: nn.Module, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self.network = network
        self.masks = [(network.get_parameter(name), mask.float()) for name, mask in masks.items()]

    def forward(self, inputs: Tensor) -> Tensor:
        for weight, mask in self.masks:
            weight.data *= mask
        return self.network(inputs)  # type: ignore[no-any-return]


def plain_epoch(network: Masked, loader: DataLoader[tuple[Tensor, int]], lr: float) -> None:
    optimiser = torch.optim.SGD(network.parameters(), lr=lr)
    for inputs, labels in loader:
        network.train()
        optimiser.zero_grad()
        cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def plain_evaluation(network: Masked, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Accuracy; the loss is taken as well, as the papers' code does."""
    network.eval()
    hits, loss, seen = 0.0, 0.0, 0
    for inputs, labels in loader:
        logits = network(inputs)
        seen += len(labels)
        loss += cross_entropy(logits, labels).item() * len(labels)
        hits += (logits.argmax(1) == labels).sum().item()
    return hits / seen


def images(folder: Path | None) -> tuple[Arrays, str]:
    """MNIST, or random images of the size of scikit-learn's digits where it is not there."""
    try:
        if folder is None:
            raise UserError("no folder given")
        return mnist(trial.Data(source="mnist", path=str(folder)), None), f"MNIST ({folder.name})"
    except UserError as problem:
        draw = np.random.default_rng(0)
        inputs = draw.integers(0, 256, (1_797, 8, 8), dtype=np.uint8)
        labels = np.repeat(np.arange(10), 180)[:1_797]
        return Arrays(inputs, labels, inputs[:360], labels[:360]), f"RANDOM images of 8 x 8, because: {problem}"


def resident(inputs: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    """The same examples as tensors in memory."""
    x = torch.from_numpy(inputs).float().div_(255).sub_(MEAN).div_(DEVIATION)[:, None].contiguous()
    y = torch.from_numpy(labels)
    return Split(x, y, y, torch.zeros(len(y), dtype=torch.bool), torch.arange(len(y)))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matmul(rows: int, inner: int, columns: int) -> float:
    """FLOP/s of one fp32 matrix product: the best of 40, as a peak is what the machine can do."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    return 2 * rows * inner * columns / min(seconds(lambda: a @ b) for _ in range(40))


def flops(network: nn.Module) -> int:
    """Useful FLOP of one training step per image: forward, weight gradients, and input gradients but the first."""
    sizes = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear)]
    return 4 * sum(sizes) + 2 * sum(sizes[1:])


def rounds(arrays: Arrays, count: int, share: float) -> Iterator[dict[str, float]]:
    """One dictionary of measurements per round; the first round is a warm-up and is not given."""
    assert arrays.test_inputs is not None
    assert arrays.test_labels is not None
    pick = streams.generator(0, "split", "benchmark").permutation(len(arrays.labels))
    pick = pick[: max(2 * BATCH, round(share * len(pick)))]
    held = slice(0, max(BATCH, round(share * len(arrays.test_labels))))
    numbers = [arrays.labels[pick].astype(np.int64), arrays.test_labels[held].astype(np.int64)]
    pixels = [arrays.inputs[pick].astype(np.uint8), arrays.test_inputs[held].astype(np.uint8)]
    train, test = (resident(x, y) for x, y in zip(pixels, numbers, strict=True))
    dataset = data.Dataset(train, None, test, tuple("0123456789"), "")
    served = [Images(x, y) for x, y in zip(pixels, numbers, strict=True)]
    shuffled, loaders = DataLoader(served[0], BATCH, shuffle=True), [DataLoader(images, BATCH) for images in served]
    spec, recipe = trial.Model(), trial.Recipe(epochs=1, batch_size=BATCH, lr=0.1)
    ours, theirs = (models.build(spec, dataset.input_shape, 10, 0) for _ in range(2))
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(p.shape, generator=draw) >= SPARSITY for n, p in ours.named_parameters() if p.ndim == 2}
    with torch.no_grad():
        for name, mask in masks.items():
            ours.get_parameter(name).masked_fill_(~mask, 0.0)
    masked = Masked(theirs, masks)
    for number in range(count + 1):
        found = {"peak": matmul(1024, 1024, 1024), "own": matmul(BATCH, int(np.prod(dataset.input_shape)), 300)}
        found["plain training"] = seconds(lambda: plain_epoch(masked, shuffled, recipe.lr))
        moments = fit(ours, train, recipe, seed=0, level=number, masks=masks)
        found["our training"] = seconds(partial(list, moments))
        found["plain evaluation"] = seconds(lambda: [plain_evaluation(masked, at) for at in loaders])
        found["our evaluation"] = seconds(lambda: evaluate(ours, dataset))
        found |= {"examples": len(train), "flops": flops(ours)}
        found["plain accuracy"] = plain_evaluation(masked, loaders[1])
        found["our accuracy"] = evaluate(ours, dataset)["test_accuracy"] or 0.0
        if number:
            yield found


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median, least and most, and how many."""
    return f"{statistics.median(values):,.1f}{unit} ({min(values):,.1f} .. {max(values):,.1f}, n = {len(values)})"


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = os.environ.get("PRUNEPHASE_DATA") or (str(beside) if beside.is_dir() else None)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=default and Path(default), help="folder of MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=7, help="rounds measured, after one to warm up")
    parser.add_argument("--epochs-share", type=float, default=0.1, help="share of the examples used in each round")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    arrays, words = images(chosen.data)
    table = list(rounds(arrays, chosen.rounds, chosen.epochs_share))
    print(f"data: {words}; {table[0]['examples']:,} training examples a round; torch {torch.__version__}, 1 thread")
    parts = {"training only": ["training"], "training + evaluation": ["training", "evaluation"]}
    for title, names in parts.items():
        plain = [sum(row[f"plain {n}"] for n in names) for row in table]
        ours = [sum(row[f"our {n}"] for n in names) for row in table]
        ratio = [p / o for p, o in zip(plain, ours, strict=True)]
        print(f"\n{title}: median (least .. most)")
        print(
            f"  plain loop     {spread([r['examples'] / s for r, s in zip(table, plain, strict=True)], ' samples/s')}"
        )
        print(f"  prunephase     {spread([r['examples'] / s for r, s in zip(table, ours, strict=True)], ' samples/s')}")
        print(f"  ratio by round {spread(ratio)}: {', '.join(f'{r:.1f}' for r in ratio)}")
    speed = [row["flops"] * row["examples"] / row["our training"] for row in table]
    print(f"\nfp32 matmul, best of each round, and our training's share of it ({table[0]['flops']:,} FLOP an image)")
    for key, title in (("peak", "1024 x 1024 x 1024"), ("own", "first layer's own   ")):
        rates = [row[key] / 1e9 for row in table]
        shares = [100 * s / row[key] for s, row in zip(speed, table, strict=True)]
        print(f"  {title} {spread(rates, ' GFLOP/s')}; ours {spread(shares, ' %')}")
    last = table[-1]
    print(f"\ntest accuracy in the end: plain {last['plain accuracy']:.3f}, prunephase {last['our accuracy']:.3f}")


if __name__ == "__main__":
    main()
