# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole product on one machine: the namespace lab, its hosts' services and traffic, and the Mininet topology.

``lab.Lab`` is the way in; ``plan`` holds every name and address. This module imports nothing, since the traffic tools
start in every namespace and have to start fast.
"""
