/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handoff block (docs/handoff-block.md): 80 bytes behind the SYN's own payload, inside the IP total length. All
 * integers big-endian. The trailer stands last, so that a receiver finds it from the end whatever the version.
 */
#ifndef AA_BLOCK_H
#define AA_BLOCK_H

#include "parse.h"
#include "siphash.h"
#include "types.h"

#define BLOCK_MAGIC be32(0x41414842) /* "AAHB" */
#define BLOCK_VERSION_1 1
#define BLOCK_KIND_SYN 1

/* Conntrack helpers whose sessions can be shared; append only. */
#define HELPER_NONE 0
#define HELPER_FTP 1
#define HELPER_LAST HELPER_FTP
#define HELPER_NOT_SHARED 255 /* never on the wire: a helper without a number */

struct handoff_block {
	__be16 cluster_id;
	__u8 owner;
	__u8 slot; /* data interface the SYN came in on */
	__u8 family;
	__u8 protocol;
	__u8 helper; /* HELPER_*: the auxiliary's entry needs it */
	__u8 reserved;
	__be32 generation;
	__be32 epoch;
	__be32 connmark;
	__be32 mark;
	__be32 status; /* of the primary's conntrack entry, IPS_* bits */
	__be16 source_port; /* translated */
	__be16 destination_port;
	__u8 source[16];
	__u8 destination[16];
	__be32 magic;
	__u8 version;
	__u8 kind;
	__be16 length;
	__u8 tag[8];
};
_Static_assert(sizeof(struct handoff_block) == 80, "the block is a wire format");

/* What the tag is computed over, laid out as it is hashed. */
struct sealed_block {
	struct tuple original;
	__be32 sequence;
	__u32 zero;
	struct handoff_block block;
};
_Static_assert(sizeof(struct sealed_block) == 128, "hashed as 64-bit words");

#define SEALED_WORDS ((sizeof(struct sealed_block) - sizeof(((struct handoff_block *)0)->tag)) / 8)

static __always_inline __u64 block_tag(const __u64 key[2], const struct sealed_block *sealed)
{
	return siphash24(key, (const __u64 *)sealed, SEALED_WORDS);
}

#endif
