/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames of the cluster's own beside announcements: replicas of flows and pulses (docs/liveness.md). Behind the Ethernet
 * header stand this head, a body by kind, and 8 bytes of SipHash over head and body. All integers big-endian.
 */
#ifndef AA_HL_H
#define AA_HL_H

#include "parse.h"
#include "siphash.h"
#include "types.h"

#define ETH_P_HL 0x88b6 /* IEEE 802, the second local experimental one */

#define HL_MAGIC be32(0x4141484c) /* "AAHL" */
#define HL_VERSION_1 1
#define HL_KIND_REPLICA 1
#define HL_KIND_PULSE 2  /* primary → auxiliary: are you there? */
#define HL_KIND_ANSWER 3 /* auxiliary → primary: yes, on this link */

struct hl_head {
	__be32 magic;
	__u8 version;
	__u8 kind;
	__be16 cluster_id;
	__be32 generation;
	__be32 epoch;
	__u8 sender; /* node id */
	__u8 target; /* node id; 0: all */
	__be16 length; /* of head, body and tag */
};
_Static_assert(sizeof(struct hl_head) == 20, "the head is a wire format");

#endif
