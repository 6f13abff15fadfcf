"""Carbon: energy and emissions of a run as codecarbon estimates them, kept beside the facts and never in its way."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prunephase.disk import machine
from prunephase.errors import UserError
from prunephase.events import LevelDone, Note
from prunephase.runs import Observer
from prunephase.store import Store
from prunephase.study import Study
from prunephase.trial import Trial

MISSING = 'codecarbon is not installed, so nothing is estimated; pip install "prunephase[carbon]"'


@contextmanager
def followed(study: Study, store: Store, country: str, observe: Observer) -> Iterator[Observer]:
    """An observer of a run that counts what is trained, too; at its end codecarbon's estimate is kept in `store`.

    country: three letters (ISO 3166), such as DEU: whose grid. The estimate is that of this process and its workers.
    Whatever codecarbon cannot do is told to `observe` in a line and ends nothing. Raises UserError for a country that
    it does not know, before anything is trained.
    """
    check(country)
    trained: Counter[str] = Counter()

    def count(trial: Trial, event: Any) -> None:
        if isinstance(event, LevelDone) and not event.cached and not event.shared:
            trained[event.trial] += 1
        observe(trial, event)

    def note(text: str) -> None:
        observe(study.trials[0], Note("", f"--carbon {country}: {text}"))

    tracker, begun = None, time.time()
    try:
        tracker = _started(country)
    except ImportError:
        note(MISSING)
    except Exception as problem:  # somebody else's code, beside the matter of the run
        note(f"codecarbon does not work here, so nothing is estimated ({type(problem).__name__}: {problem})")
    try:
        yield count
    finally:
        if tracker is not None:
            try:
                _keep(store, study, country, tracker, trained, begun)
            except Exception as problem:
                note(f"codecarbon's estimate is lost ({type(problem).__name__}: {problem})")


def check(country: str) -> None:
    """Raise UserError where `country` is not the code of one, as far as codecarbon, if it is here, can tell."""
    if not (len(country) == 3 and country.isascii() and country.isalpha() and country.isupper()):
        raise UserError(f"--carbon {country}: expected a country as three capital letters (ISO 3166), such as DEU")
    try:
        from codecarbon.input import DataSource

        known = DataSource().get_global_energy_mix_data()
    except Exception:  # not installed, or not as we know it: `followed` says so
        return
    if country not in known:
        raise UserError(f"--carbon {country}: codecarbon knows no such country; its code (ISO 3166) is needed, as DEU")


def estimates(store: Store, trials: Sequence[Trial]) -> list[Mapping[str, Any]]:
    """What codecarbon said of the runs that trained levels of `trials`, in the order of time; others' may be in it."""
    digests = {need.digest() for trial in trials for need in (trial, *trial.needs().values())}
    return [one for one in store.runs().values() if digests & set(one.get("trained", ()))]


def _started(country: str) -> Any:
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker = OfflineEmissionsTracker(
        country_iso_code=country, tracking_mode="process", save_to_file=False, save_to_api=False, log_level="critical"
    )
    tracker.start()
    return tracker


def _keep(store: Store, study: Study, country: str, tracker: Any, trained: Mapping[str, int], begun: float) -> None:
    tracker.stop()
    if not trained:
        return
    said = tracker.final_emissions_data
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun))
    facts = {
        "study": study.digest(),
        "started": started,
        "seconds": round(time.time() - begun, 3),
        "country": country,
        "kwh": float(said.energy_consumed),
        "grams_co2e": 1000 * float(said.emissions),
        "by": f"codecarbon {said.codecarbon_version}, {said.tracking_mode}, {said.cpu_model}",
        "trained": dict(trained),
    }
    store.put_run(f"{started.replace(':', '')}-{machine()}-{os.getpid()}", facts)
