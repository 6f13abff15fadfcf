"""Export: what each form of a network weighs and how long it takes, by sparsity.

    python benchmarks/export.py                     five small networks at 0, 90, 98 and 99.5 % sparsity
    python benchmarks/export.py --full              the same at the papers' widths; for a quiet machine
    python benchmarks/export.py --table rows.jsonl  the tables of what has been measured so far

Networks of random weights, BatchNorm statistics that are not blank, pruned by global magnitude: files and times depend
on which weights are left, not on what they were trained for. Every form is read back and compared as in an export. Each
case is a line of rows.jsonl; what is there already is not measured again. ONNX where its packages are installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from prunephase import models, prune
from prunephase.exports import measured
from prunephase.exports.bundle import every_form
from prunephase.exports.forms import Model
from prunephase.exports.latency import BATCHES, latencies, machine
from prunephase.sections import Model as Spec
from prunephase.sections import Pruning

SPARSITIES = (0.0, 0.9, 0.98, 0.995)
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "lenet-300-100": ((1, 28, 28), {}, {}),
    "small-cnn": ((1, 28, 28), {}, {}),
    "vgg-like": ((3, 32, 32), {"gamma": 3}, {}),
    "resnet18": ((3, 32, 32), {"width": 8}, {}),
    "vit": ((3, 32, 32), {"dim": 64, "heads": 4, "mlp_dim": 128}, {}),
}


def pruned(name: str, kwargs: dict[str, Any], shape: tuple[int, ...], sparsity: float) -> Model:
    """A network of random weights of which the smallest are gone."""
    spec = Spec(name=name, kwargs=kwargs)
    network = models.build(spec, shape, 10, 0).eval()
    draw = torch.Generator().manual_seed(1)
    for buffer in (b for b in network.buffers() if b.is_floating_point()):
        buffer.copy_(0.5 + torch.rand(buffer.shape, generator=draw))
    chosen, _ = prune.prunable(network, Pruning())
    scores = {key: weight.detach().abs() for key, weight in chosen.items()}
    alive = {key: torch.ones_like(weight, dtype=torch.bool) for key, weight in chosen.items()}
    keep = round((1 - sparsity) * sum(weight.numel() for weight in chosen.values()))
    masks = prune.select(scores, alive, {"": keep})
    prune.zero_pruned(network, masks)
    inputs = torch.randn(128, *shape, generator=draw)
    return Model(network.requires_grad_(False), masks, lambda: models.build(spec, shape, 10, 7).eval(), inputs, {})


def case(name: str, kwargs: dict[str, Any], shape: tuple[int, ...], sparsity: float) -> dict[str, Any]:
    """One network at one sparsity: bytes by form, milliseconds by form and batch."""
    model = pruned(name, kwargs, shape, sparsity)
    with tempfile.TemporaryDirectory() as folder:
        found = every_form(Path(folder), model)
        sizes = {form.path: measured.file(Path(folder) / form.path) for form in found.forms}
    small = found.compacted.network
    return {
        "model": name,
        "kwargs": kwargs,
        "sparsity": sparsity,
        "parameters": [sum(p.numel() for p in network.parameters()) for network in (model.network, small)],
        "bytes": {path: [size["bytes"], size["gzip"]] for path, size in sizes.items()},
        "latency": [one.as_json() for one in latencies(found.runs, model.inputs)],
        "machine": machine(),
        "kept": found.compacted.kept,
    }


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: sizes in KB, then milliseconds at each batch size."""
    lines = [
        "| network | sparsity | parameters | dense KB (gzip) | bit-packed KB (gzip) | left in compact | KB (gzip) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kb = {kind: "{:,.1f} ({:,.1f})".format(*(n / 1000 for n in sizes)) for kind, sizes in row["bytes"].items()}
        counts = [f"{n:,}" for n in row["parameters"]]
        dense, sparse, compact = (kb[f"{kind}/model.safetensors"] for kind in ("dense", "sparse", "compact"))
        cells = (counts[0], dense, sparse, counts[1], compact)
        lines.append(f"| {_name(row)} | {100 * row['sparsity']:g} % | {' | '.join(cells)} |")
    kinds = ("dense", "compact", "dense with CSR linear layers", "dense on onnxruntime", "compact on onnxruntime")
    for batch in BATCHES:
        lines += ["", f"Batch {batch}: milliseconds, median (quartiles), n", ""]
        lines += [f"| network | sparsity | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
        for row in rows:
            at = {one["form"]: one for one in row["latency"] if one["batch"] == batch}
            cells = tuple(
                "{median:.3g} ({low:.3g} to {high:.3g}), {n}".format(**at[kind]) if kind in at else "-"
                for kind in kinds
            )
            lines.append(f"| {_name(row)} | {100 * row['sparsity']:g} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    return " ".join([row["model"], *(f"{key}={value}" for key, value in row["kwargs"].items())])


def main() -> None:
    """Measure what is missing; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the papers' widths")
    parser.add_argument("--rows", type=Path, default=Path("rows.jsonl"), help="where the cases are kept")
    parser.add_argument("--table", type=Path, help="print what this file holds, and measure nothing")
    given = parser.parse_args()
    place = given.table or given.rows
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    for sparsity in () if given.table else SPARSITIES[::-1]:
        for name, (shape, narrow, wide) in CASES.items():
            kwargs = wide if given.full else narrow
            if any((row["model"], row["kwargs"], row["sparsity"]) == (name, kwargs, sparsity) for row in rows):
                continue
            rows.append(case(name, kwargs, shape, sparsity))
            with place.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    order = list(CASES)
    print(tables(sorted(rows, key=lambda row: (order.index(row["model"]), row["sparsity"]))))


if __name__ == "__main__":
    main()
