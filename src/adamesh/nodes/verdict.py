"""What is wrong with what was found, and what to do about it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from adamesh.nodes.record import Card, Finding, Leg

__all__ = ["clock_offsets", "findings", "slow_legs"]

_SLOW = 8.0
"""A direction is slow if the best one is so many times faster than its own best transfer."""
_FAR, _FAR_S = 8.0, 1e-3
_CLOCKS_S = 1.0


def findings(cards: Sequence[Card], missing: Sequence[int], legs: Sequence[Leg], wait_s: float) -> list[Finding]:
    """Failures first."""
    found = [
        *(Finding("failure", text) for text in _missing(missing, wait_s)),
        *(Finding("failure", text) for text in _unreachable(cards, legs)),
        *_names(cards),
        *_versions(cards),
        *(Finding("warning", text) for text in (*_slow(cards, legs), *_far(cards, legs)) if _on_several(cards)),
        *(Finding("warning", text) for text in _clocks(cards, legs)),
    ]
    return sorted(found, key=lambda finding: finding.level != "failure")


def clock_offsets(cards: Sequence[Card], legs: Sequence[Leg]) -> dict[int, float]:
    """Seconds by which a node's clock is ahead of the first one's, where the two could talk."""
    first = cards[0].rank
    ahead = {leg.sender: -leg.offset_s for leg in legs if leg.receiver == first and leg.offset_s is not None}
    return ahead | {leg.receiver: leg.offset_s for leg in legs if leg.sender == first and leg.offset_s is not None}


def slow_legs(legs: Sequence[Leg]) -> list[Leg]:
    """Those that are much slower than the best."""
    speeds = [leg.mbit for leg in legs if leg.mbit is not None]
    return [leg for leg in legs if leg.most_mbit is not None and leg.most_mbit * _SLOW < max(speeds)]


def _on_several(cards: Sequence[Card]) -> bool:
    """Whether there are several machines: on one, names do not matter, and speeds are those of a busy memory."""
    return len({card.machine for card in cards}) > 1


def _missing(missing: Sequence[int], wait_s: float) -> Iterator[str]:
    for rank in missing:
        yield (
            f"node {rank} did not show up within {wait_s:.0f} s: its own output says why; or it was not started, or is "
            "still starting (--wait-s gives more time)"
        )


def _unreachable(cards: Sequence[Card], legs: Sequence[Leg]) -> Iterator[str]:
    failed: dict[int, list[Leg]] = defaultdict(list)
    for leg in legs:
        if leg.failure is not None:
            failed[leg.sender].append(leg)
            failed[leg.receiver].append(leg)
    all_of_it = 2 * (len(cards) - 1)
    cut_off = {rank for rank, some in failed.items() if len(some) == all_of_it and len(cards) > 2}
    by_rank = {card.rank: card for card in cards}
    for rank in sorted(cut_off):
        yield (
            f"{by_rank[rank].name} and the others cannot reach each other: {failed[rank][0].failure}. Let all TCP "
            f"ports through to it (firewall, security group), or set GLOO_SOCKET_IFNAME there to the interface that "
            f"the others are on; it listens on {by_rank[rank].interface}"
        )
    reasons: dict[tuple[int, int], list[Leg]] = defaultdict(list)
    for leg in legs:
        if leg.failure is not None and not {leg.sender, leg.receiver} & cut_off:
            reasons[min(leg.sender, leg.receiver), max(leg.sender, leg.receiver)].append(leg)
    for pair in reasons.values():
        leg = pair[0]
        sender, receiver = by_rank[leg.sender], by_rank[leg.receiver]
        back = "nor the other way round" if len(pair) == 2 else "the other way round works"
        yield (
            f"{sender.name} cannot reach {receiver.name}, {back}: {leg.failure}. Workers connect by TCP on any port: "
            "let all of them through between the two (firewall, security group, routes), or set GLOO_SOCKET_IFNAME to "
            "interfaces of a network that both are on"
        )


def _names(cards: Sequence[Card]) -> Iterator[Finding]:
    if _on_several(cards):
        for card in cards:
            if card.problem is not None:
                yield Finding("failure", f"{card.name}: {card.problem}")


def _versions(cards: Sequence[Card]) -> Iterator[Finding]:
    first, *others = cards
    for card in others:
        for what in ("torch", "adamesh", "python"):
            mine, theirs = getattr(card, what), getattr(first, what)
            if mine.partition("+")[0] != theirs.partition("+")[0]:
                yield Finding(
                    "warning" if what == "python" else "failure",
                    f"{card.name} has {what} {mine}, node {first.rank} has {theirs}: install the same on all",
                )


def _slow(cards: Sequence[Card], legs: Sequence[Leg]) -> Iterator[str]:
    slow = slow_legs(legs)
    best = max((leg.mbit for leg in legs if leg.mbit is not None), default=0.0)
    by_rank = {card.rank: card for card in cards}
    pairs: dict[tuple[int, int], list[Leg]] = defaultdict(list)
    for leg in slow:
        pairs[min(leg.sender, leg.receiver), max(leg.sender, leg.receiver)].append(leg)
    advice = "Look at cables, interfaces and limits; if it has to stay, send less (docs/wire.md)"
    measured = [(leg.sender, leg.receiver) for leg in legs if leg.mbit is not None]
    throughout = [rank for rank in by_rank if len(cards) > 2 and _all_slow(rank, measured, set(pairs))]
    for rank in throughout:
        own = [leg for leg in slow if rank in (leg.sender, leg.receiver)]
        name = by_rank[rank].name
        yield f"all links of {name} are slow: {_figures(own)}, where the best here has {best:,.0f}. {advice}"
    for (one, other), some in pairs.items():
        if one not in throughout and other not in throughout:
            yield (
                f"the link between {by_rank[one].name} and {by_rank[other].name} is slow: {_figures(some)}, where the "
                f"best here has {best:,.0f}. {advice}"
            )


def _all_slow(rank: int, measured: Sequence[tuple[int, int]], slow: set[tuple[int, int]]) -> bool:
    """Whether each pair of a node that could talk is slow, in one direction at least."""
    own = {(min(leg), max(leg)) for leg in measured if rank in leg}
    return len(own) > 1 and own <= slow


def _figures(legs: Sequence[Leg]) -> str:
    return ", ".join(f"{leg.mbit:,.1f} Mbit/s from {leg.sender} to {leg.receiver}" for leg in legs)


def _far(cards: Sequence[Card], legs: Sequence[Leg]) -> Iterator[str]:
    times = [leg.latency_s for leg in legs if leg.latency_s is not None]
    by_rank = {card.rank: card for card in cards}
    for leg in legs:
        if leg.latency_s is not None and leg.sender < leg.receiver and leg.latency_s > max(_FAR_S, _FAR * min(times)):
            yield (
                f"{by_rank[leg.sender].name} and {by_rank[leg.receiver].name} are far apart: {1e3 * leg.latency_s:.1f} "
                f"ms there and back, where the nearest here need {1e3 * min(times):.2f} ms; several waits a step pay it"
            )


def _clocks(cards: Sequence[Card], legs: Sequence[Leg]) -> Iterator[str]:
    for rank, ahead in clock_offsets(cards, legs).items():
        if abs(ahead) > _CLOCKS_S:
            side = "ahead of" if ahead > 0 else "behind"
            card = next(card for card in cards if card.rank == rank)
            yield (
                f"the clock of {card.name} is {abs(ahead):.1f} s {side} node {cards[0].rank}'s: training does not "
                "mind, events in logs come in the wrong order. Let NTP set it (timedatectl set-ntp true)"
            )
