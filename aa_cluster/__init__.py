# SPDX-License-Identifier: GPL-2.0-or-later
"""aa-cluster: N identical stateful Linux gateways work as one."""

__version__ = "0.1.0"
