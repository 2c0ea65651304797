# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster`` and ``python -m aa_cluster``."""

from __future__ import annotations

from aa_cluster.cli import main

if __name__ == "__main__":
    main()
