# SPDX-License-Identifier: GPL-2.0-or-later
"""Links, neighbours, announcements, conntrack and the ruleset of this network namespace.

Every call is blocking, opens what it needs and closes it again, and may be made from any thread, one that
runs an event loop included. Failures are ``NetlinkError``.
"""
