"""Downloads: the first mirror that gives the right bytes; no unverified file is kept."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunephase import disk
from prunephase.errors import UserError

TRIES = 2
TIMEOUT_SECONDS = 30


def fetch(
    name: str,
    urls: Sequence[str],
    checksum: str,
    say: str,
    advice: str,
    cache: Path | None = None,
    *,
    plain: bool = False,
) -> Path:
    """The file `name` in the cache folder, fetched where it is not there or is another one.

    checksum: as in "md5:..."; plain: the mirrors have it compressed with gzip, and the checksum is of what is inside.
    Raises UserError, from `say` to `advice`, where no mirror gives the right bytes.
    """
    import pooch  # only what is downloaded needs it

    problems = []
    for url in list(urls) * TRIES:
        try:
            loader = _decompressing if plain else pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
            return Path(pooch.retrieve(url, checksum, name, cache or disk.cache_folder(), downloader=loader))
        except (OSError, EOFError, zlib.error, ValueError) as problem:
            problems.append(f"{url}: {type(problem).__name__}")
    raise UserError(f"{say}: could not download {name} ({'; '.join(dict.fromkeys(problems))}); {advice}")


def _decompressing(url: str, output_file: str, caller: Any) -> None:
    """A pooch downloader that leaves plain bytes, so that pooch's own check is one of the content."""
    import pooch

    pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)(url, output_file, caller)
    archive = Path(output_file)
    archive.write_bytes(gzip.decompress(archive.read_bytes()))
