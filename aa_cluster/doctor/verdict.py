# SPDX-License-Identifier: GPL-2.0-or-later
"""The four ends of a check."""

from __future__ import annotations

from aa_cluster.api import Check


def passed(name: str, found: str) -> Check:
    return Check(name=name, result="pass", found=found)


def warned(name: str, found: str, fix: str) -> Check:
    return Check(name=name, result="warn", found=found, fix=fix)


def failed(name: str, found: str, fix: str) -> Check:
    return Check(name=name, result="fail", found=found, fix=fix)


def skipped(name: str, found: str, fix: str = "") -> Check:
    return Check(name=name, result="skip", found=found, fix=fix)
