# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile, link, load, attach, pin and read the BPF programs. ``plane.Dataplane`` is the way in."""
