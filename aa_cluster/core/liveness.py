# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nodes can carry sessions, judged by the pulses that they answer (docs/liveness.md).

``step(state, event)`` gives the new state and the verdicts that changed. There is no clock here: silence is counted in
time that the prober waited, so one that did not run judges nothing. A link has a number: the slot of a data interface,
or what the caller gave the HA link.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

LEAST_UNANSWERED = 3
"""Pulses in a row, before silence counts whatever its length."""
OVERSLEPT = 0.02
"""Seconds by which a wait may be longer than planned and still count in full."""
STEADY = 0.5
"""Seconds for which all links of an unfit node must answer before it is fit again."""
FIRST_PATIENCE = 3.0
"""Seconds a link may take to its first answer: a port comes up after its node has joined."""
ALONE = 2
"""Times ``dead`` when nobody at all answers, and there is more than one to answer: that may well be this node."""

STRAINED = 8
"""Times ``dead`` while this machine loses frames that it received: the answers may be among them."""
STRAIN = 0.5
"""Seconds since the last such loss for which that holds."""

Link = int
Key = tuple[int, Link]
Hosts = Literal["asked", "answer", "silent", "unknown"]
"""Of a segment; ``unknown``: there was nobody to ask."""


@dataclass(frozen=True, slots=True)
class Count:
    """Sequence numbers of one link: the newest pulse that had time to be answered, and the newest that was."""

    sent: int
    answered: int


@dataclass(frozen=True, slots=True)
class Track:
    """``quiet``: s since the last answer; ``steady``: s for which every pulse was answered.

    ``base``: what was sent before this node was watched.
    """

    base: int = -1
    answered: int = 0
    unanswered: int = 0
    quiet: float = 0.0
    steady: float = 0.0
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Liveness:
    """``dead``: s of silence on a link that end its node's work. ``unfit``: nodes that were told so.

    ``own``: links that are broken here, as nobody else's can be judged by them. ``carrierless``: links without carrier.
    ``hosts``: what those of a data link say on which no node answers. ``strain``: s for which the loss of frames here
    still excuses silence.
    """

    links: tuple[Link, ...]
    ha: Link
    dead: float
    tracks: Mapping[Key, Track] = field(default_factory=dict)
    nodes: frozenset[int] = frozenset()
    unfit: frozenset[int] = frozenset()
    own: frozenset[Link] = frozenset()
    carrierless: frozenset[Link] = frozenset()
    hosts: Mapping[Link, Hosts] = field(default_factory=dict)
    strain: float = 0.0

    def calm(self) -> bool:
        """Nothing is wrong anywhere: as long as every pulse is answered there is nothing to judge."""
        return not self.unfit and not self.own and all(one.proven and not one.quiet for one in self.tracks.values())

    def doubtful(self) -> bool:
        """Something may be about to turn out dead: the sooner there are more answers, or none, the better."""
        judged = (one for (node, link), one in self.tracks.items() if node not in self.unfit and link not in self.own)
        return any(one.quiet or not one.proven for one in judged)

    def deaf(self) -> frozenset[Link]:
        """Links with a carrier on which neither a node answers nor a host."""
        return frozenset(link for link, said in self.hosts.items() if said == "silent")

    def lost(self, node: int) -> tuple[Link, ...]:
        """Its links that do not answer."""
        return tuple(link for link in self.links if self.silent(self.tracks[node, link], self.dead))

    def silent(self, track: Track, dead: float) -> bool:
        """For so many seconds, or for as long as a link may take that has never answered."""
        patience = dead * STRAINED if self.strain else dead
        if not track.proven:
            patience = max(patience, FIRST_PATIENCE)
        return track.quiet >= patience and track.unanswered >= LEAST_UNANSWERED


@dataclass(frozen=True, slots=True)
class Watch:
    """From now on these nodes are judged; ``unfit`` ones are known to be so. ``proven``: all links of these have
    answered somebody before, so that their silence counts from now on."""

    nodes: frozenset[int]
    unfit: frozenset[int] = frozenset()
    proven: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Look:
    """After a wait of ``planned`` s, which took ``passed``. ``counts``: every link of every node; empty: all answer.

    ``overrun``: this machine has lost frames that it received, since the look before.
    """

    planned: float
    passed: float
    counts: Mapping[Key, Count]
    overrun: bool = False


@dataclass(frozen=True, slots=True)
class Carrier:
    link: Link
    up: bool


@dataclass(frozen=True, slots=True)
class HostsSaid:
    """Whether one of the hosts of that link answers (``AskHosts``); None when there is nobody to ask."""

    link: Link
    answer: bool | None


Event = Watch | Look | Carrier | HostsSaid


@dataclass(frozen=True, slots=True)
class Unfit:
    """The node must not have sessions: these links of it do not answer."""

    node: int
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """All links of a node that was unfit answer again."""

    node: int


@dataclass(frozen=True, slots=True)
class Own:
    """This node's own link is broken, or is no more."""

    link: Link
    broken: bool


@dataclass(frozen=True, slots=True)
class AskHosts:
    """No node answers on that data link: do its hosts? If they do not either, it is this node's own port that is
    dead."""

    link: Link


Verdict = Unfit | Fit | Own | AskHosts
Step = tuple[Liveness, tuple[Verdict, ...]]


def step(state: Liveness, event: Event) -> Step:
    match event:
        case Watch():
            return _watch(state, event), ()
        case Carrier():
            lost = state.carrierless - {event.link} if event.up else state.carrierless | {event.link}
            changed = replace(state, carrierless=lost)
            return _judge(_anew(changed, event.link) if event.up else changed)
        case HostsSaid():
            if event.link not in state.hosts:
                return state, ()
            return _judge(replace(state, hosts={**state.hosts, event.link: _heard(event, state.strain)}))
        case Look():
            counted = min(event.passed, event.planned + OVERSLEPT)
            wait = counted, event.planned
            tracks = {key: _follow(track, event.counts.get(key), *wait) for key, track in state.tracks.items()}
            strain = STRAIN if event.overrun else max(0.0, state.strain - counted)
            return _judge(replace(state, tracks=tracks, strain=strain))


def _heard(event: HostsSaid, strain: float) -> Hosts:
    """A machine that loses frames loses hosts' answers, too."""
    if event.answer:
        return "answer"
    return "unknown" if event.answer is None or strain else "silent"


def _watch(state: Liveness, event: Watch) -> Liveness:
    """A node that is watched anew begins anew."""
    keys = [(node, link) for node in sorted(event.nodes) for link in state.links]
    tracks = {key: state.tracks[key] if key[0] in state.nodes else Track(proven=key[0] in event.proven) for key in keys}
    return replace(state, tracks=tracks, nodes=event.nodes, unfit=event.unfit & event.nodes)


def _follow(track: Track, count: Count | None, seconds: float, planned: float) -> Track:
    """``seconds``: what the wait counts for."""
    if count is None:
        return replace(track, unanswered=0, quiet=0.0, steady=track.steady + seconds, proven=True)
    base = count.sent if track.base < 0 else track.base
    answered = max(count.answered, base)
    unanswered = count.sent - answered
    proven = track.proven or answered > base
    if unanswered <= 0:
        return Track(base, answered, 0, 0.0, track.steady + seconds if proven else 0.0, proven)
    if not track.quiet:
        quiet = seconds + planned  # the last answer came in the wait before this one
    elif answered > track.answered and proven:
        quiet = seconds
    else:
        quiet = track.quiet + seconds
    return Track(base, answered, unanswered, quiet, 0.0, proven)


def _judge(state: Liveness) -> Step:
    state, asked = _doubt_own(state)
    state, said = _judge_own(state)
    verdicts: list[Verdict] = [*asked, *said]
    for node in sorted(state.nodes):
        if node in state.unfit:
            if all(state.tracks[node, link].steady >= STEADY for link in state.links):
                state = replace(state, unfit=state.unfit - {node})
                verdicts.append(Fit(node))
            continue
        lost = _lost(state, node)
        if lost:
            state = replace(state, unfit=state.unfit | {node})
            verdicts.append(Unfit(node, lost))
    return state, tuple(verdicts)


def _lost(state: Liveness, node: int) -> tuple[Link, ...]:
    """A data link that is dead here, or has no carrier, says nothing about a node; while its hosts are asked, nothing
    for as long again. The HA link does: who is cut off cannot be led. So does a data link on which no node answers, but
    hosts do, or there are none: packets sent to them over it are lost, and here they may not be.
    """
    fit = state.nodes - state.unfit
    nobody = len(fit) > 1 and all(_mute(state, one) for one in fit)
    mute = state.carrierless | state.deaf()
    links = (link for link in state.links if link == state.ha or link not in mute)
    return tuple(link for link in links if state.silent(state.tracks[node, link], _patience(state, link, nobody)))


def _patience(state: Liveness, link: Link, nobody: bool) -> float:
    """``nobody``: no node answers on any link."""
    return state.dead * ALONE if nobody or state.hosts.get(link) == "asked" else state.dead


def _mute(state: Liveness, node: int) -> bool:
    """Answers on no link for now."""
    return all(state.tracks[node, link].quiet >= state.dead / 2 for link in state.links)


def _doubt_own(state: Liveness) -> Step:
    """Hosts are asked once, as soon as no node that speaks at all answers on a data link; forgotten when one does."""
    hosts, verdicts = dict(state.hosts), list[Verdict]()
    for link in state.links:
        tracks = [state.tracks[node, link] for node in _speaking(state)]
        if link == state.ha or link in state.carrierless:
            hosts.pop(link, None)
        elif link in state.deaf():
            every = (state.tracks[node, link] for node in state.nodes)
            if any(track.proven and not track.quiet for track in every):
                del hosts[link]
        elif not tracks or not all(track.proven and track.quiet >= state.dead / 2 for track in tracks):
            hosts.pop(link, None)
        elif link not in hosts:
            hosts[link] = "asked"
            verdicts.append(AskHosts(link))
    return replace(state, hosts=hosts), tuple(verdicts)


def _speaking(state: Liveness) -> list[int]:
    """Nodes that answer on some link."""
    return [node for node in sorted(state.nodes - state.unfit) if not _mute(state, node)]


def _judge_own(state: Liveness) -> Step:
    verdicts: list[Verdict] = []
    for link in state.links:
        broken = _is_own(state, link)
        if broken != (link in state.own):
            state = _set_own(state, link, broken)
            verdicts.append(Own(link, broken))
    return state, tuple(verdicts)


def _is_own(state: Liveness, link: Link) -> bool:
    """A data link on which neither a node answers nor a host is dead here; so is one without carrier. Where there is no
    host to ask: one on which no node does, though two or more do on others."""
    if link in state.carrierless or link in state.deaf():
        return True
    if state.hosts.get(link) == "answer":
        return False
    if state.hosts.get(link) == "asked":
        return link in state.own
    if link in state.own:
        return all(state.tracks[node, link].quiet for node in state.nodes)
    tracks = [state.tracks[node, link] for node in _speaking(state)]
    return (
        len(tracks) > 1
        and all(track.quiet >= state.dead / 2 for track in tracks)
        and any(state.silent(track, state.dead) for track in tracks)
    )


def _set_own(state: Liveness, link: Link, broken: bool) -> Liveness:
    """When it works again all nodes begin anew on it: they need not come back in one instant."""
    if broken:
        return replace(state, own=state.own | {link})
    return _anew(replace(state, own=state.own - {link}), link)


def _anew(state: Liveness, link: Link) -> Liveness:
    """On that link nobody has been silent until now."""
    tracks = {key: replace(track, quiet=0.0) if key[1] == link else track for key, track in state.tracks.items()}
    return replace(state, tracks=tracks)
