# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent: one per node, both roles in one binary. The only place with an event loop."""
