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
};

enum flow_direction {
	FLOW_ORIGINAL = 0,
	FLOW_REPLY = 1,
};

/*
 * The flow table holds a flow twice, once under each tuple; `peer` is the other one. What both must know (owner,
 * state) is written to both; `seen_ns` and `ended` belong to one direction.
 */
struct flow {
	struct tuple peer;
	__u64 created_ns; /* CLOCK_MONOTONIC, coarse */
	__u64 seen_ns;    /* moved at most every AA_SEEN_STEP_NS */
	__u32 mark;       /* connmark at the decision */
	__u8 owner;       /* node id */
	__u8 direction;   /* enum flow_direction */
	__u8 state;       /* enum flow_state */
	__u8 ended;       /* this direction has sent FIN or RST */
	__u8 slot;        /* data interface the first packet came in on */
	__u8 pad[7];
};
_Static_assert(sizeof(struct flow) == 72, "flow has no hidden padding");

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

/* A data interface. */
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
	__u64 key[2]; /* SipHash key of the handoff tag, little-endian halves */
	__u32 generation;
	__u32 epoch; /* on an auxiliary: the oldest acceptable */
	__u32 ha_ifindex;
	__u32 established_ms; /* the node's nf_conntrack_tcp_timeout_established */
	__u32 closing_ms;     /* … and _time_wait */
	__u16 cluster_id;
	__u8 self; /* this node's id */
	__u8 primary;
	__u8 ha_mac[6];
	__u8 primary_ha_mac[6];
	__u8 pad[4];
};
_Static_assert(sizeof(struct config) == 56, "config has no hidden padding");

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
