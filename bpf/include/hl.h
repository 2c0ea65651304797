/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all frames between the nodes' programs begin with (IEEE 802, local experimental EtherType 2), behind the Ethernet
 * header. All integers big-endian. A SipHash-2-4 tag stands at the very end, over all before it; what it is made of is a
 * multiple of eight bytes.
 */
#ifndef AA_HL_H
#define AA_HL_H

#include "parse.h"
#include "siphash.h"
#include "types.h"

#define ETH_P_HL 0x88b6

#define HL_MAGIC be32(0x4141484c) /* "AAHL" */
#define HL_VERSION_1 1
#define HL_KIND_REPLICA 1 /* primary → auxiliaries: records of the flow table */
#define HL_KIND_PULSE 2   /* primary → auxiliary: are you there? */
#define HL_KIND_ANSWER 3  /* auxiliary → primary: yes, on this link */

struct hl_head {
	__be32 magic;
	__u8 version;
	__u8 kind;
	__be16 cluster_id;
	__be32 generation;
	__be32 epoch;
	__u8 sender; /* node id */
	__u8 target; /* node id; 0: all */
	__be16 length; /* from the magic to the tag's end */
};
_Static_assert(sizeof(struct hl_head) == 20, "the head is a wire format");

static __always_inline void hl_fill(struct hl_head *head, const struct config *conf, __u8 kind, __u8 target, __u16 length)
{
	head->magic = HL_MAGIC;
	head->version = HL_VERSION_1;
	head->kind = kind;
	head->cluster_id = be16(conf->cluster_id);
	head->generation = be32(conf->generation);
	head->epoch = be32(conf->epoch);
	head->sender = conf->self;
	head->target = target;
	head->length = be16(length);
}

#endif
