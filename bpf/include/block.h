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
#define BLOCK_KIND_SYN 1     /* primary → auxiliary: a session handed off */
#define BLOCK_KIND_FLOW 2    /* auxiliary → primary: a session that begins on the auxiliary */
#define BLOCK_KIND_EXPECT 3  /* auxiliary → primary: a session that one of its helpers expects */
#define BLOCK_KIND_REFUSED 4 /* primary → auxiliary: that session's tuple is another's */
#define BLOCK_KIND_UNKNOWN 5 /* auxiliary → primary: a datagram came of a session that it has no entry for */

/* Frames between auxiliary and primary that announce something (IEEE 802, local experimental). */
#define ETH_P_ANNOUNCE 0x88b5

#define BLOCK_WHOLE 2 /* in `flags` of UNKNOWN: the datagram is all there */
#define BLOCK_OWN 1   /* in `flags`: the auxiliary's own session, only its answers pass the primary */

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
	union {
		struct {
			__be32 mark;
			__be32 status; /* of the primary's conntrack entry, IPS_* bits */
		};
		struct { /* of an announcement */
			__u8 next_hop[6];
			__u8 flags;
			__u8 tries; /* ports refused before this one */
		};
	};
	__be16 source_port; /* SYN: translated. FLOW: of the original tuple. EXPECT: of the expected one. */
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
	struct tuple original; /* the tuple in the packet's own headers: FLOW, EXPECT: the translated one */
	__be32 sequence;       /* of TCP, else 0 */
	__u32 zero;
	struct handoff_block block;
};
_Static_assert(sizeof(struct sealed_block) == 128, "hashed as 64-bit words");

#define SEALED_WORDS ((sizeof(struct sealed_block) - sizeof(((struct handoff_block *)0)->tag)) / 8)

static __always_inline __u64 block_tag(const __u64 key[2], const struct sealed_block *sealed)
{
	return siphash24(key, (const __u64 *)sealed, SEALED_WORDS);
}

/* What all kinds have; `about`: a tuple of the session's family and protocol. Then what it carries, what it says, the tag. */
static __always_inline void block_begin(struct handoff_block *block, const struct config *conf, __u8 kind, __u8 owner,
					__u8 slot, const struct tuple *about)
{
	__builtin_memset(block, 0, sizeof(*block));
	block->cluster_id = be16(conf->cluster_id);
	block->owner = owner;
	block->slot = slot;
	block->family = about->family;
	block->protocol = about->protocol;
	block->generation = be32(conf->generation);
	block->epoch = be32(conf->epoch);
	block->magic = BLOCK_MAGIC;
	block->version = BLOCK_VERSION_1;
	block->kind = kind;
	block->length = be16(sizeof(*block));
}

static __always_inline void block_carry(struct handoff_block *block, const struct tuple *tuple)
{
	block->source_port = tuple->sport;
	block->destination_port = tuple->dport;
	__builtin_memcpy(block->source, tuple->saddr, 16);
	__builtin_memcpy(block->destination, tuple->daddr, 16);
}

/* A tuple read backwards. */
static __always_inline void block_carry_inverted(struct handoff_block *block, const struct tuple *tuple)
{
	block->source_port = tuple->dport;
	block->destination_port = tuple->sport;
	__builtin_memcpy(block->source, tuple->daddr, 16);
	__builtin_memcpy(block->destination, tuple->saddr, 16);
}

static __always_inline void block_seal(const struct config *conf, struct sealed_block *sealed)
{
	__u64 tag = block_tag(conf->key, sealed);

	__builtin_memcpy(sealed->block.tag, &tag, 8);
}

#endif
