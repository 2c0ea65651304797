/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Replica frames (docs/replication.md has the diagram): what `compose` makes and `mirror` takes. */
#ifndef AA_REPLICA_H
#define AA_REPLICA_H

#include "hl.h"

#define REPLICA_MOST 15 /* records in 1500 bytes; one less than a power of two, so that it is a mask as well */

/* In skb->cb[0] of a packet that leaves by the HA link only to be made a frame of. */
#define COMPOSE_SYN 0x41415231     /* of what pends; a clone of a forwarded packet */
#define COMPOSE_PENDING 0x41415232 /* of what pends; a frame of the agent's */
#define COMPOSE_RANGE 0x41415233   /* of cb[4] entries from position cb[2], cb[3] (upper half) on, for node cb[1] */

struct replica_record {
	__be32 number;
	__be32 mark;
	__u8 owner;
	__u8 state; /* 0: the number is not in use, and nothing else here counts */
	__u8 ended;
	__u8 slot;
	__u8 protocol;
	__u8 family;
	__u16 zero;
	__be32 age_ms;  /* since it was created */
	__be32 idle_ms; /* since a packet of it was seen */
	__be16 sport;
	__be16 dport;
	__be16 reply_sport;
	__be16 reply_dport;
	__u8 saddr[16];
	__u8 daddr[16];
	__u8 reply_saddr[16];
	__u8 reply_daddr[16];
};
_Static_assert(sizeof(struct replica_record) == 96, "the record is a wire format");

struct replica_head {
	struct hl_head common;
	__u8 count; /* of records */
	__u8 zero[3];
	__be64 position; /* of the first record's entry; the others' follow it */
	__be64 head;     /* of the journal: entries ever written */
};
_Static_assert(sizeof(struct replica_head) == 40, "the head is a wire format");

#define REPLICA_HEAD_WORDS 5
#define REPLICA_RECORD_WORDS 12
#define REPLICA_WORDS (REPLICA_HEAD_WORDS + REPLICA_MOST * REPLICA_RECORD_WORDS)

/* A frame as it is made or read, and its tag. The Ethernet header begins two bytes in, so that the rest is aligned. */
struct replica_work {
	__u8 ethernet[16];
	__u64 word[REPLICA_WORDS + 1];
	__u32 number[16];
	/* What loops find is kept here: where they found it is then nothing the verifier has to follow. */
	__u32 seen[4]; /* by PLACE_*: one more than a place; 0: none */
	__u32 count;   /* of records */
	__u32 pad;
};
#define ETHERNET_AT 2

static __always_inline __u32 replica_words(__u32 count)
{
	return REPLICA_HEAD_WORDS + count * REPLICA_RECORD_WORDS;
}

static __always_inline __u64 swap64(__u64 value)
{
	return __builtin_bswap64(value);
}

#endif
