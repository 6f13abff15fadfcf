"""Commands that hand a finished level over, and lay several side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from prunephase.cli.words import HERE, Json, StudyFile, Where, aligned, app, examples, print_json
from prunephase.errors import Exit, UserError


@app.command(
    help_epilogue=examples(
        "prunephase export study.toml -o model",
        "prunephase export study.toml --level sweet -o model --force",
        "prunephase export study.toml --level sparsity=0.98 --seed 2 --set noise.rate=0.4",
    )
)
def export(
    study: StudyFile,
    *,
    where: Where = HERE,
    level: Annotated[
        str,
        Parameter(
            help="best: the best mean validation accuracy; sweet: so within the sweet phase of the validation curve; "
            "12; sparsity=0.98: the nearest level."
        ),
    ] = "best",
    seed: Annotated[int | None, Parameter(help="Whose network; by default the best validation accuracy.")] = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The folder to write.")] = Path("model"),
    force: Annotated[
        bool,
        Parameter(negative="", show_default=False, help="Replace an exported folder; export a collapsed level too."),
    ] = False,
    no_latency: Annotated[
        bool, Parameter(negative="", show_default=False, help="Do not time the forms on this machine.")
    ] = False,
    json: Json = False,
) -> int:
    """Write one level as a folder that others can load: dense, bit-packed, compacted, torch.export, ONNX, model card.

    Every form is read back and must say what the network says. The test set chooses nothing.
    """
    from prunephase.exports.bundle import export as write
    from prunephase.exports.page import count, size
    from prunephase.terminal import clean, percent

    whole = where.load(study)
    done = write(
        *(whole, output, where.store, level, seed),
        force=force,
        latency=not no_latency,
        plugins=where.plugins,
        tell=lambda text: print(clean(text), file=sys.stderr, flush=True),
    )
    card = done.card
    if json:
        print_json({"folder": str(done.folder), "card": card})
        return Exit.OK
    choice, test = card["choice"], card["accuracy"]["test"]
    spread = f" [{100 * test['interval'][0]:.1f}, {100 * test['interval'][1]:.1f}]" if test["interval"] else ""
    lines = [
        f"{output}: level {choice['level']} of trial {card['trial']} (seed {choice['seed']}), "
        f"{percent(card['sparsity'], 2)} sparse, {count(card['surviving'])} of {count(card['prunable'])} weights left.",
        f"Level by: {choice['level_by']}. Seed by: {choice['seed_by']}.",
        f"Test accuracy: {percent(test['mean'])}{spread} (n = {test['n']}), this seed "
        f"{percent(test['this_seed'])}; phase: {card['phase']['phase'] or 'not known'} ({card['phase']['verdict']}).",
    ]
    print(clean("\n".join(lines)))
    rows = [
        (form["path"], size(form["bytes"]), size(form["gzip"]), _same(form["difference"])) for form in card["forms"]
    ]
    print(aligned(("file", "size", "gzip", "read back"), rows))
    if card["latency"]:
        cells = [
            (
                f"{row['form']}, batch {row['batch']}",
                f"{row['median']:.3g}",
                f"{row['low']:.3g} to {row['high']:.3g}",
                str(row["n"]),
            )
            for row in card["latency"]
        ]
        print(aligned(("time of a batch", "median, ms", "quartiles", "n"), cells))
    print(clean("\n".join([*card["missing"], done.sentence])))
    return Exit.OK


@app.command(
    help_epilogue=examples(
        "prunephase compare model-a model-b",
        "prunephase compare study.toml:best study.toml:sparsity=0.9 model-a",
    )
)
def compare(
    *levels: Annotated[
        str, Parameter(name="LEVEL", help="An exported folder, or STUDY:LEVEL, such as study.toml:best.")
    ],
    where: Where = HERE,
    json: Json = False,
) -> int:
    """Lay exported folders and finished levels side by side: accuracy with interval, sizes, latency, noise, phase.

    Sizes and times are measured by `prunephase export`; of a level that was not exported they are not known.
    """
    from prunephase.exports.compare import apart, card_of, summary
    from prunephase.terminal import clean

    if not levels:
        raise UserError("nothing to compare; expected exported folders or STUDY:LEVEL, such as study.toml:best")
    rows = [summary(name, card_of(name, where.store, where.load)) for name in levels]
    if json:
        print_json({"levels": rows, "apart": apart(rows)})
        return Exit.OK
    columns = [_column(row) for row in rows]
    facts = list(dict.fromkeys(fact for column in columns for fact in column))
    cells = [(fact, *(column.get(fact, "-") for column in columns)) for fact in facts]
    print(clean(aligned(("", *(row["name"] for row in rows)), cells)))
    print(
        clean(
            "\n".join(
                ["Test accuracy: mean over n seeds [95 % Student-t interval]; times: median [quartiles].", *apart(rows)]
            )
        )
    )
    return Exit.OK


def _column(row: Mapping[str, Any]) -> dict[str, str]:
    """What `compare` shows of one level."""
    from prunephase.exports.page import size
    from prunephase.terminal import percent

    test, noise = row["test"], row["noise"]
    mean = "-"
    if test is not None:
        within = f" [{100 * test['interval'][0]:.1f}, {100 * test['interval'][1]:.1f}]" if test["interval"] else ""
        mean = f"{percent(test['mean'])}{within}, n = {test['n']}"
    candidate = "" if row["verdict"] == "present" else f" ({row['verdict']})"
    cells = {
        "study": row["study"],
        "network": row["model"],
        "data": row["data"],
        "label noise": f"{noise['kind']}, {percent(noise['realised'])} wrong",
        "level": f"{row['level']}, by {'validation' if row['split'] == 'validation' else 'name'}",
        "sparsity": percent(row["sparsity"], 2),
        "weights left": f"{row['surviving']:,}",
        "phase": f"{row['phase'] or '-'}{candidate}",
        "test accuracy": mean,
        "this seed": "-" if test is None else f"{percent(test['this_seed'])} (seed {row['seed']})",
    }
    cells |= {f"bytes, {form}": size(bytes_) for form, bytes_ in row["bytes"].items()}
    for form, times in row["milliseconds"].items():
        for batch, (median, low, high) in times.items():
            cells[f"ms, {form}, batch {batch}"] = f"{median:.3g} [{low:.3g}, {high:.3g}]"
    return cells


def _same(difference: float) -> str:
    return "bit for bit" if difference == 0 else f"within {difference:.1e}"
