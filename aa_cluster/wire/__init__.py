# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes that leave the node: the handoff block and the control messages. Encode and decode, nothing else.

Decoders raise ``WireError`` and no other exception, whatever the bytes.
"""
