# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs onto hooks and off again, by netlink: attachments stay when the agent goes, and are replaced in one step."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as KernelRefused

from aa_cluster.dataplane import syscall
from aa_cluster.errors import DataplaneError

Hook = Literal["xdp", "ingress", "egress"]
XdpMode = Literal["native", "generic", "none"]

PRIORITY = 4242
"""Of our first TC filter on a hook; with the handle it tells ours from others'."""

XDP_OURS = ("steer", "relinquish")

_HANDLE = 1
_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_XDP_FLAG = {"generic": 2, "native": 4}
_XDP_ATTACHED: dict[str | None, XdpMode] = {"xdp": "native", "xdpgeneric": "generic"}  # pyroute2 names for 1 and 2
_ETH_P_ALL = 3


@dataclass(frozen=True, slots=True)
class Point:
    """One hook of one interface, and the program that belongs there."""

    hook: Hook
    ifindex: int
    program: str
    order: int = 0
    """Among ours on a TC hook: a program passes on to the next what it has no verdict for."""

    @property
    def priority(self) -> int:
        return PRIORITY + self.order


class Attacher:
    """``marks`` is a bpffs directory where it notes which clsact qdiscs it made, so that only those are removed."""

    def __init__(self, ipr: IPRoute, marks: Path) -> None:
        self._ipr = ipr
        self._marks = marks

    def refuse_others(self, point: Point) -> None:
        """``DataplaneError`` when an XDP program of somebody else's is there: to take its place would end its work."""
        other = self._xdp_program(point.ifindex) if point.hook == "xdp" else None
        if other is not None and other not in XDP_OURS:
            raise DataplaneError(
                f"interface {point.ifindex} carries an XDP program already, {other!r}, which is not ours",
                "take it off first (ip link set … xdp off), or make another interface the data interface",
            )

    def attach(self, point: Point, fd: int, xdp: Literal["auto", "native", "generic"]) -> None:
        """Puts the program on its hook, in place of what is there. ``DataplaneError`` when refused."""
        try:
            if point.hook == "xdp":
                self._attach_xdp(point, fd, xdp)
            else:
                self._attach_tc(point, fd)
        except KernelRefused as error:
            raise DataplaneError(
                f"{point.program} cannot be attached to {point.hook} of interface {point.ifindex}: {error}",
                "see whether the interface is still there and carries no XDP program of another's (`ip link`)",
            ) from None

    def _attach_xdp(self, point: Point, fd: int, xdp: Literal["auto", "native", "generic"]) -> None:
        if xdp == "auto":
            try:
                return self._set_xdp(point.ifindex, fd, _XDP_FLAG["native"])
            except KernelRefused as error:
                if error.code not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP):
                    raise
                return self._set_xdp(point.ifindex, fd, _XDP_FLAG["generic"])
        return self._set_xdp(point.ifindex, fd, _XDP_FLAG[xdp])

    def _set_xdp(self, ifindex: int, fd: int, flags: int) -> None:
        attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", flags)]
        self._ipr.link("set", index=ifindex, IFLA_XDP={"attrs": attributes})

    def _attach_tc(self, point: Point, fd: int) -> None:
        """Nearly always the qdisc is there."""
        try:
            self._set_filter(point, fd)
        except KernelRefused as error:
            if error.code not in (errno.ENOENT, errno.EINVAL):
                raise
            self._add_qdisc(point)
            self._set_filter(point, fd)

    def _add_qdisc(self, point: Point) -> None:
        try:
            self._ipr.tc("add", "clsact", point.ifindex)
            (self._marks / str(point.ifindex)).mkdir(parents=True, exist_ok=True, mode=0o700)
        except KernelRefused as error:
            if error.code != errno.EEXIST:
                raise

    def _set_filter(self, point: Point, fd: int) -> None:
        self._ipr.tc(
            "replace-filter",
            "bpf",
            point.ifindex,
            handle=_HANDLE,
            parent=_PARENT[point.hook],
            prio=point.priority,
            protocol=_ETH_P_ALL,
            fd=fd,
            name=f"aa-{point.program}",
            direct_action=True,
        )

    def detach(self, point: Point) -> None:
        """Takes our program off; nothing if it is not there, or the interface is gone."""
        try:
            if point.hook == "xdp":
                mode = self.xdp_mode(point.ifindex)
                if self.attached(point):
                    self._set_xdp(point.ifindex, -1, _XDP_FLAG[mode])
            else:
                self._ipr.tc(
                    "del-filter",
                    "bpf",
                    point.ifindex,
                    handle=_HANDLE,
                    parent=_PARENT[point.hook],
                    prio=point.priority,
                    protocol=_ETH_P_ALL,
                )
        except KernelRefused as error:
            if error.code not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                raise DataplaneError(f"{point.program} cannot be detached: {error}") from None

    def release_qdisc(self, ifindex: int) -> None:
        """Removes the interface's clsact qdisc if we made it and no filter of another's is left on it."""
        mark = self._marks / str(ifindex)
        if not mark.is_dir():
            return
        mark.rmdir()
        try:
            if any(self._ipr.get_filters(index=ifindex, parent=parent) for parent in _PARENT.values()):
                return
            self._ipr.tc("del", "clsact", ifindex)
        except KernelRefused as error:
            if error.code not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                raise DataplaneError(f"the clsact qdisc of interface {ifindex} cannot be removed: {error}") from None

    def xdp_mode(self, ifindex: int) -> XdpMode:
        return _XDP_ATTACHED.get(self._xdp(ifindex, "IFLA_XDP_ATTACHED"), "none")

    def _xdp_program(self, ifindex: int) -> str | None:
        """The name of the XDP program that is attached, None when there is none."""
        identifier = self._xdp(ifindex, "IFLA_XDP_PROG_ID")
        return syscall.prog_name(identifier) if identifier else None

    def _xdp(self, ifindex: int, attribute: str) -> Any:
        """None also when the interface is gone."""
        try:
            links = list(self._ipr.get_links(ifindex))
        except KernelRefused as error:
            if error.code != errno.ENODEV:
                raise
            return None
        xdp = links[0].get_attr("IFLA_XDP") if links else None
        return xdp.get_attr(attribute) if xdp is not None else None

    def attached(self, point: Point) -> bool:
        """Is a program of ours on that hook?"""
        if point.hook == "xdp":
            return self._xdp_program(point.ifindex) == point.program
        for entry in self._ipr.get_filters(index=point.ifindex, parent=_PARENT[point.hook]):
            if entry.get("info", 0) >> 16 == point.priority and entry.get("handle") == _HANDLE:
                return True
        return False
