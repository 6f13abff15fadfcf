#!/usr/bin/env python3
"""Set up and run prunephase, from a fresh clone, with nothing but Python.

python3 do.py demo     set up if needed, then a sparse double descent on this machine, and its report
python3 do.py test     set up if needed, then the tests
python3 do.py check    set up if needed, then linters, types and layers
python3 do.py ...      any other word goes to the program: python3 do.py run study.toml
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "prunephase-stamp"


def main(words):
    """Set up, then do what `words` say; gives the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - nothing is installed yet, and an old Python must still read this file
        print(f"prunephase needs Python 3.11 or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    if not words or words[0] in ("-h", "--help"):
        print(__doc__, end="")
        return 0
    problem = set_up()
    if problem:
        print(f"do.py: {problem}", file=sys.stderr)
        return 1
    # One thread each: the tests run in as many processes as there are cores.
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    if words[0] == "test":
        return run(PYTHON, "-m", "pytest", "-n", "auto", "--dist", "worksteal", "-m", "not slow", *words[1:], env=quiet)
    if words[0] == "check":
        checks = (
            [PYTHON, "-m", "ruff", "check", "."],
            [PYTHON, "-m", "ruff", "format", "--check", "."],
            [PYTHON, "-m", "mypy"],
            [BIN / "lint-imports"],
        )
        failures = [command for command in checks if run(*command) != 0]  # every check has its say
        return 1 if failures else 0
    return run(PYTHON, "-m", "prunephase", *words)


def set_up():
    """Make .venv with everything in it, unless that is done; gives a line that says what went wrong, or nothing."""
    wanted = hashlib.sha256(
        b"".join((ROOT / f).read_bytes() for f in ("pyproject.toml", "constraints.txt"))
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists():
        return ""
    print("setting up .venv (once) ...", file=sys.stderr, flush=True)
    if not PYTHON.exists() and run(sys.executable, "-m", "venv", VENV):
        return "no virtual environment could be made; on Debian and Ubuntu: sudo apt install python3-venv"
    project = f"{ROOT}[images,test,dev]"
    wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    pip = (PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    done = run(*pip, "uv") == 0
    if done:
        # From a folder of wheels, if one is named; otherwise uv picks the build of torch for this machine's CPU or GPU.
        named = [word for folder in (wheels or "").replace(",", " ").split() for word in ("--find-links", folder)]
        source = named or ["--torch-backend", "auto"]
        uv = (PYTHON, "-m", "uv", "pip", "install", "-q", "--python", PYTHON)
        done = run(*uv, *source, "-c", ROOT / "constraints.txt", "-e", project) == 0
    if not done:
        note = "" if wheels else "; on Linux this takes the CUDA build of torch, several GB"
        print(f"uv did not manage; trying pip{note} ...", file=sys.stderr, flush=True)
        if run(*pip, "-c", ROOT / "constraints.txt", "-e", project):
            return (
                "the packages could not be installed; is there a network? (PIP_FIND_LINKS may name a folder of wheels)"
            )
    STAMP.write_text(wanted)
    return ""


def run(*command, env=None):
    """Run a command and give its exit code; Ctrl-C is left to the command."""
    process = subprocess.Popen([str(part) for part in command], env=env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
