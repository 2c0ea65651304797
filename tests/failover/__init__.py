# SPDX-License-Identifier: GPL-2.0-or-later
"""A package, so that a fixture can last as long as its tests."""
