# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic for the labs.

Each module is a small program for hosts (``python -m aa_cluster.topology.traffic.X``) that uses the standard library
alone (but ``quic``, which has aioquic) and says what it saw as one line of JSON; ``aa_cluster.topology.load`` drives them.
"""
