"""Several trials down their ladders: levels that can train at once do, and no trial sees another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from prunephase.bench import Site
from prunephase.engine import Job, Moment, grouped, team
from prunephase.events import Event
from prunephase.ladder import ladder
from prunephase.task import Finished, Task, failure
from prunephase.training import Answer, Busy, Heard, Next, Wish

PATIENCE = 0.1  # seconds between two looks at what another process trains


def descend(tasks: Sequence[Task], site: Site) -> Iterator[tuple[Task, Event | Finished]]:
    """Take the trials of `tasks` down their ladders; yields what happens to each, and Finished once for each."""
    climbers = [_Climber(task, site) for task in tasks]
    try:
        for climber in climbers:
            yield from climber.go_on(None)
        while waiting := [climber for climber in climbers if climber.wish is not None]:
            ready = [climber for climber in waiting if isinstance(climber.wish, Job)]
            for group in grouped([climber.job for climber in ready]):
                yield from _train([ready[place] for place in group])
            if not ready:
                time.sleep(PATIENCE)
            for climber in waiting:
                if isinstance(climber.wish, Busy):
                    yield from climber.go_on(None)
    finally:
        for climber in climbers:
            climber.steps.close()


class _Climber:
    """One ladder's coroutine, and what it waits for (None: it is over)."""

    def __init__(self, task: Task, site: Site) -> None:
        self.task = task
        self.steps = ladder(task.trial, site, task.levels, task.stop)
        self.wish: Wish | None = None

    @property
    def job(self) -> Job:
        """The job it waits for."""
        assert isinstance(self.wish, Job)
        return self.wish

    def go_on(self, answer: Answer | BaseException) -> Iterator[tuple[Task, Event | Finished]]:
        """Run until the ladder asks for something, giving it `answer`; yields what happens on the way."""
        try:
            said = self.steps.throw(answer) if isinstance(answer, BaseException) else self.steps.send(answer)
            while not isinstance(said, Wish):
                yield self.task, said
                said = next(self.steps)
            self.wish = said
        except StopIteration:
            self.wish = None
            yield self.task, Finished()
        except (Exception, SystemExit) as problem:  # the user's code runs in here
            self.wish = None
            yield self.task, failure(problem)


def _train(climbers: Sequence[_Climber]) -> Iterator[tuple[Task, Event | Finished]]:
    """Train at once the levels that `climbers` wait for, until each of them has heard all it wants."""
    listening = dict(enumerate(climbers))
    try:
        together = team([climber.job for climber in climbers])
        for moments in together.moments():
            measured = any(isinstance(moment, Moment) and moment.running_loss is not None for moment in moments)
            said = together.guesses() if measured else [None] * len(moments)
            for place, climber in list(listening.items()):
                yield from climber.go_on(Heard(moments[place], said[place], together.strategy))
                if not isinstance(climber.wish, Next):
                    del listening[place]
            if not listening:
                return
    except (Exception, SystemExit) as problem:  # in the training itself: all who took part
        for climber in listening.values():
            yield from climber.go_on(problem)
        return
    for climber in listening.values():
        yield from climber.go_on(None)
