# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic for the labs.

Each module is a small program for hosts (``python -m aa_cluster.topology.traffic.X``) that uses the standard library
alone (``quic`` has aioquic, too) and says what it saw as one line of JSON; ``aa_cluster.topology.load`` and
``load_udp`` drive them.
"""
