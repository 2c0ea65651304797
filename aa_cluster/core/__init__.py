# SPDX-License-Identifier: GPL-2.0-or-later
"""Pure decisions: (state, event) → (state, commands). No socket, no clock, no file."""
