"""The command line: what each command is called, what it is told, and the exit code it leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

from cyclopts import CycloptsError

# The commands register themselves with the app, in the order in which --help lists them.
from prunephase.cli import (  # noqa: F401
    auditing,
    checks,
    deciding,
    diagnosing,
    exporting,
    labels,
    refining,
    results,
    settings,
    spending,
    work,
)
from prunephase.cli.words import app, fail
from prunephase.errors import Exit, PrunephaseError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. Errors are one line each; with --debug a traceback comes first."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with contextlib.suppress(ValueError):  # not in the main thread: whoever called us decides about signals
        signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(words or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(code or 0)
    except CycloptsError as problem:
        return fail(f"{' '.join(str(problem).split())} (see prunephase --help)", Exit.USER)
    except PrunephaseError as problem:
        if debug:
            traceback.print_exc()
        return fail(str(problem), problem.code)
    except KeyboardInterrupt:
        return fail("interrupted; finished levels are safe, the same command goes on", Exit.INTERRUPTED)
    except _Terminated:
        return fail("terminated; finished levels are safe, the same command goes on", Exit.TERMINATED)
    except BrokenPipeError:  # `prunephase ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as problem:
        if debug:
            traceback.print_exc()
        with tempfile.NamedTemporaryFile("w", prefix="prunephase-crash-", suffix=".txt", delete=False) as log:
            traceback.print_exc(file=log)
        return fail(
            f"a fault of prunephase: {type(problem).__name__}: {problem} (please report; traceback in {log.name})",
            Exit.BUG,
        )


class _Terminated(BaseException):
    """SIGTERM arrived."""


def _terminated(signum: int, frame: Any) -> None:  # noqa: ARG001
    raise _Terminated
