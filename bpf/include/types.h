/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is shared in memory: tuples, flows, nodes, ports, the configuration. User space learns every layout from the
 * compiled objects (dataplane/object.py), so nothing here is written twice.
 */
#ifndef AA_TYPES_H
#define AA_TYPES_H

#define AA_MAX_NODES 64
#define AA_MAX_PORTS 16
#define AA_SEQUENCE_CAPACITY 8192 /* a power of two: the index is masked */
#define AA_HASH_KEYS 11 /* 64-bit words for one sum over the largest tuple: five pairs and one */
#define AA_NSEC_PER_SEC 1000000000ull

/* One direction of a flow as its packets arrive on the wire. IPv4 addresses are v4-mapped (RFC 4291, 2.5.5.2). */
struct tuple {
	__u8 saddr[16];
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u16 zero;
};
_Static_assert(sizeof(struct tuple) == 40, "the tuple is part of the handoff tag");

/* Names and meanings follow conntrack's TCP states as far as a bystander can tell them. */
enum flow_state {
	FLOW_SYN_SENT = 1,
	FLOW_SYN_RECV = 2,
	FLOW_ESTABLISHED = 3,
	FLOW_CLOSING = 4, /* a FIN in one direction */
	FLOW_CLOSED = 5,  /* a FIN in both, or a RST */
	FLOW_DEAD = 6,    /* swept: its entries are gone, its number rests until the next sweep */
};

enum flow_direction {
	FLOW_ORIGINAL = 0,
	FLOW_REPLY = 1,
};

/* One cache line of the hot table; what an entry's bits mean is in flow_table.h. */
struct bucket {
	__u64 word[8];
};
_Static_assert(sizeof(struct bucket) == 64, "a bucket is a cache line");

/*
 * The cold half of a flow: all there is to know about it, read when it begins, changes or ends, and by operators. Given
 * out by number; a number is given out again one sweep after its flow went, when no program can still hold it.
 */
struct record {
	struct tuple original;
	struct tuple reply;
	__u64 created_ns; /* CLOCK_MONOTONIC, coarse */
	__u64 seen_ns;    /* moved by the sweep, for a flow that was touched */
	__u32 place[2];   /* by direction: bucket × 8 + index of the entry; entries never move */
	__u32 mark;       /* connmark at the decision */
	__u8 owner;       /* node id */
	__u8 state;       /* enum flow_state; 0: not in use */
	__u8 ended;       /* a bit for each direction that has sent FIN or RST */
	__u8 slot;        /* data interface the first packet came in on */
	__u8 pad[16];
};
_Static_assert(sizeof(struct record) == 128, "a record is two cache lines");

/* How a node is reached. */
enum hop {
	HOP_NONE = 0,  /* no such node: its packets go to the primary's own stack */
	HOP_LOCAL = 1, /* this node itself, or a node whose flows it has taken over */
	HOP_STEER = 2,
};

struct node {
	__u32 hop; /* enum hop; the one switch of a take-over */
	__u8 ha_mac[6];
	__u8 macs[AA_MAX_PORTS * 6]; /* by slot; flat, as bcc describes no arrays of arrays */
	__u8 pad[6];
};
_Static_assert(sizeof(struct node) == 112, "node has no hidden padding");

static __always_inline const __u8 *mac_of(const struct node *node, __u32 slot)
{
	return node->macs + 6 * (slot & (AA_MAX_PORTS - 1));
}

/* A data interface. Found by the low bits of its ifindex: the loader sees to it that no two data interfaces share them. */
#define AA_PORT_TABLE 256

struct port {
	__u32 ifindex;
	__u16 mtu;
	__u8 slot;
	__u8 pad;
	__u8 physical_mac[6];
	__u8 virtual_mac[6];
	__u8 pad2[4];
};
_Static_assert(sizeof(struct port) == 24, "port has no hidden padding");

struct config {
	__u64 hash_key[2 * AA_HASH_KEYS]; /* of the flow table: fingerprint, then bucket */
	__u32 bucket_mask;                /* buckets − 1 */
	__u32 flow_limit;                 /* the highest record number */
	__u64 key[2];                     /* SipHash key of the handoff tag, little-endian halves */
	__u32 generation;
	__u32 epoch; /* on an auxiliary: the oldest acceptable */
	__u32 ha_ifindex;
	__u32 timeout_s[8]; /* by enum flow_state, as the node's nf_conntrack_tcp_timeout_* have it */
	__u16 cluster_id;
	__u8 self; /* this node's id */
	__u8 primary;
	__u8 ha_mac[6];
	__u8 primary_ha_mac[6];
	__u8 pad[4];
};
_Static_assert(sizeof(struct config) == 264, "config has no hidden padding");

/* Where the sweep stands, and what it did since user space last looked. */
struct sweep {
	__u64 at;       /* the record to look at next */
	__u64 expired;  /* flows that went, ever */
	__u64 released; /* record numbers given back, ever */
};

struct sequence {
	__u32 length;
	__u8 node[AA_SEQUENCE_CAPACITY];
};

struct question_key {
	__u8 target[16];
	__u32 slot;
};

struct question {
	__u64 asked_ns;
	__u8 asker[AA_MAX_NODES]; /* one byte a node: setting one never disturbs another */
};

/* One fragmented packet (RFC 791: source, destination, protocol and identification tell packets apart). */
struct fragment_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__be32 id;
	__u8 protocol;
	__u8 family;
	__u16 zero;
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key has no hidden padding");

/* Where its first fragment went. */
struct fragment {
	__u64 seen_ns; /* coarse */
	__u8 owner;    /* node id; 0: the stack */
	__u8 early;    /* a later fragment came first, and is with the stack */
	__u8 pad[6];
};
_Static_assert(sizeof(struct fragment) == 16, "fragment has no hidden padding");

enum event_kind {
	EVENT_NEIGHBOUR = 1,
	EVENT_REFUSED_BLOCK = 2,
	EVENT_TABLE_FULL = 3,
};

struct event {
	__u64 time_ns;
	__u8 address[16];
	__u8 mac[6];
	__u8 kind; /* enum event_kind */
	__u8 slot;
};
_Static_assert(sizeof(struct event) == 32, "event has no hidden padding");

#endif
