/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How `adopt` knows a SYN that the agent gives back: no frame comes off the wire with a packet mark. */
#ifndef AA_DELIVERED_H
#define AA_DELIVERED_H

#define DELIVERED_MARK 0x41414456

#endif
