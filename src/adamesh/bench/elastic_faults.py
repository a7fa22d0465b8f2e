"""What is done to the workers of ``adamesh bench elastic``, and how long it takes them to go on."""

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from adamesh.bench.elastic_crew import Crew, Hand
from adamesh.bench.elastic_worker import Hold
from adamesh.bench.options import ElasticOptions

__all__ = ["Loss", "hit", "leave_alone"]

_ASLEEP_S = 0.3
_HOLD_S = 3.0
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True)
class Loss:
    """One fault. Times are in seconds."""

    step: int
    victims: int
    recovery_s: float
    """From the signal to the first step of the last survivor that was made without the lost."""
    join_s: float
    """From the word to the standby to its first step."""


def hit(crew: Crew, options: ElasticOptions, draw: random.Random) -> Loss:
    """Let random workers have a fault at a random moment, and others take their places."""
    crew.prepare()
    crew.await_(lambda: all(hand.first_in(crew.epoch) for hand in crew.hands), "steps of all workers")
    while len(crew.hands) < options.nproc:
        _replace(crew)
    crew.rest(draw.uniform(0.05, 0.3))
    epoch, step = crew.epoch, crew.newest.step
    victims = draw.sample(crew.hands, options.victims)
    if options.fault == "gil":
        at_s = max([victim.tell(Hold(_HOLD_S)) for victim in victims])
    else:
        at_s = max([victim.send(_SIGNALS[options.fault]) for victim in victims])
    for victim in victims:
        crew.lose(victim)
    crew.await_(lambda: all(hand.first_in(epoch + 1) for hand in crew.hands), "steps without the lost")
    recovered = [made for hand in crew.hands if (made := hand.first_in(epoch + 1)) is not None]
    recovery_s = max(made.at_s for made in recovered) - at_s
    if options.fault == "stop":
        crew.rest(_ASLEEP_S)
        for victim in victims:
            victim.send(signal.SIGCONT)
    if options.fault != "kill":
        _await_zombies(crew, victims)
    join_s = 0.0
    for _ in victims:
        join_s = max(join_s, _replace(crew))
    return Loss(step, len(victims), recovery_s, join_s)


def leave_alone(crew: Crew, options: ElasticOptions) -> None:
    """Do nothing for so many minutes, but replace whoever was suspected."""
    crew.prepare()
    crew.await_(lambda: all(hand.made for hand in crew.hands), "steps of all workers")
    until = time.monotonic() + 60 * options.minutes
    while time.monotonic() < until:
        crew.hear(0.5)
        crew.miss()
        while len(crew.hands) < options.nproc:
            _replace(crew)


def _replace(crew: Crew) -> float:
    """Let a standby join; returns the seconds until its first step."""
    crew.prepare()
    newcomer, told_s = crew.replace()
    crew.await_(lambda: bool(newcomer.made), "a newcomer's step")
    return newcomer.made[0].at_s - told_s


def _await_zombies(crew: Crew, victims: Sequence[Hand]) -> None:
    """Those that do something again find out that the others have gone on."""
    for victim in victims:
        crew.await_(lambda hand=victim: hand.lost or "Expelled" in hand.words, "a zombie's end")  # type: ignore[misc]
