# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench``: what a packet, a session and a node cost, beside what a user would pick instead (docs/bench.md)."""
