/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is shared in memory: tuples, flows, nodes, ports, the configuration. User space learns every layout from the
 * compiled objects (dataplane/object.py), so nothing here is written twice.
 */
#ifndef AA_TYPES_H
#define AA_TYPES_H

#define AA_MAX_NODES 64
#define AA_MAX_PORTS 16
#define AA_LINKS 17 /* of a node: a data interface by slot, then … */
#define AA_HA_LINK 16
#define AA_SEQUENCE_CAPACITY 8192 /* a power of two: the index is masked */
#define AA_RULE_LINES 128         /* of the policy, compiled; a power of two */
#define AA_RULE_COUNTERS 128      /* per bank: one a rule (64), the default's, the keep mark's, the built-in rules' */
#define AA_HITS_DEFAULT 64
#define AA_HITS_KEEP_MARK 65
#define AA_HITS_BUILT_IN 66 /* the first; their lines name them by it */
#define AA_HASH_KEYS 11 /* 64-bit words for one sum over the largest tuple: five pairs and one */
#define AA_NSEC_PER_SEC 1000000000ull
#define AA_FEATURE_ACCOUNTING 1
#define AA_FEATURE_SHARE_HELPERS 2
#define AA_FEATURE_REPLICATE 4         /* what changes in the flow table is journalled (journal.h) … */
#define AA_FEATURE_REPLICATE_SETTLED 8 /* … but nothing of flows whose handshake is not complete … */
#define AA_FEATURE_REPLICATE_AT_ONCE 16 /* … and `handoff` sends it on, not only the agent */
#define AA_JOURNAL 65536                /* entries; a power of two */

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

/*
 * Names and meanings follow conntrack's TCP states as far as a bystander can tell them. UDP has the first, unanswered, and
 * the third, answered.
 */
enum flow_state {
	FLOW_SYN_SENT = 1,
	FLOW_SYN_RECV = 2,
	FLOW_ESTABLISHED = 3,
	FLOW_CLOSING = 4, /* a FIN in one direction */
	FLOW_CLOSED = 5,  /* a FIN in both, or a RST */
	FLOW_DEAD = 6,    /* swept: its entries are gone, its number rests for a second */
};

enum flow_direction {
	FLOW_ORIGINAL = 0,
	FLOW_REPLY = 1,
};

/* In `config.timeout_s`, beside the states: a UDP flow's, and that of one that has lasted as long as a stream. */
#define FLOW_DATAGRAMS 0
#define FLOW_STREAM 7

/* In `ended`, of UDP: announced again, or answered and older than two seconds: a stream. */
#define FLOW_LASTS 8

/* In `ended`: an auxiliary's own session, of which only the answers pass the primary. */
#define FLOW_ONE_SIDED 4

/* In `ended`: taken over from another node. This node's conntrack was never in time with it, and keeps time wrongly. */
#define FLOW_TAKEN 16

/* In `ended`: a helper of its node expected it (expectation.h). */
#define FLOW_EXPECTED 32

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
	__u8 owner;       /* node id; this and the next three change only as one word: see flow_state.h */
	__u8 state;       /* enum flow_state; 0: not in use */
	__u8 ended;       /* a bit for each direction that has sent FIN or RST; FLOW_ONE_SIDED and the like */
	__u8 slot;        /* data interface the first packet came in on */
	__u64 held_ns;    /* when the primary's conntrack entry was last given its timeout, and UDP's age was told */
	__u64 position;   /* one more than its last place in the journal; on an auxiliary, of the copy it is */
};
_Static_assert(sizeof(struct record) == 128, "a record is two cache lines");

/* What a flow has carried, by direction, by record number; see account.h. */
struct account {
	__u64 packets[2];
	__u64 octets[2]; /* of IP, header included */
};
_Static_assert(sizeof(struct account) == 32, "two accounts are a cache line");

/* What the table holds at this moment. Whoever changes a record's state counts the change (flow_state.h). */
struct tally {
	__u64 live[AA_MAX_NODES]; /* by owner: flows that are neither closing nor closed */
	__u64 half_open;          /* of those, the ones whose handshake is not complete */
	__u64 persist_hits;       /* new sessions that went where their client's last one did … */
	__u64 persist_misses;     /* … and those for which a node was chosen */
	__u64 pad[5];
};
_Static_assert(sizeof(struct tally) == 576, "whole cache lines");

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
	__u8 solicitor[16]; /* an IPv6 address of this node's there, for the primary's own questions; all zero: none */
};
_Static_assert(sizeof(struct port) == 40, "port has no hidden padding");

struct config {
	__u64 hash_key[2 * AA_HASH_KEYS]; /* of the flow table: fingerprint, then bucket */
	__u32 bucket_mask;                /* buckets − 1 */
	__u32 flow_limit;                 /* the highest record number */
	__u64 key[2];                     /* SipHash key of the handoff tag, little-endian halves */
	__u64 source_key[2];              /* SipHash key of the client's address, for source-hash */
	__u64 replica_key[2];             /* SipHash key of frames between nodes: replicas, pulses */
	__u64 persist_idle_ns;            /* 0: no persistence */
	__u8 persist_v4[16];              /* what of a client's address counts: a mask over the v4-mapped form … */
	__u8 persist_v6[16];              /* … and over IPv6 */
	__u32 half_open_limit;            /* flows whose handshake is not complete */
	__u32 generation;
	__u32 epoch; /* on an auxiliary: the oldest acceptable */
	__u32 ha_ifindex;
	__u32 timeout_s[8]; /* by enum flow_state, as the node's nf_conntrack_tcp_timeout_* have it; FLOW_DATAGRAMS, FLOW_STREAM */
	__u16 cluster_id;
	__u8 self; /* this node's id */
	__u8 primary;
	__u8 ha_mac[6];
	__u8 primary_ha_mac[6];
	__u32 features; /* AA_FEATURE_* */
	__u8 heir;      /* the node that is about to become primary: no session begins meanwhile; 0: none */
	__u8 pad[3];
};
_Static_assert(sizeof(struct config) == 344, "config has no hidden padding");

/*
 * What is known of one link to one node. A pulse has a sequence number, which its answer repeats. Times: CLOCK_MONOTONIC.
 * On an auxiliary the row of its primary tells when that one was heard, and whether it answers.
 */
struct pulse {
	__u64 sent; /* sequence of the newest pulse; only `pulse` writes it */
	__u64 sent_ns;
	__u64 answered; /* sequence of the newest that was answered … */
	__u64 answered_ns;
	__u64 rtt_ns; /* … and how long that took */
	__u64 heard;  /* sequence of the newest pulse that came from there */
	__u64 heard_ns;
	__u32 generation; /* of that one */
	__u32 pad;
};
_Static_assert(sizeof(struct pulse) == 64, "a pulse is a cache line");

/* Where the sweep stands, and what it did since user space last looked. */
struct sweep {
	__u64 at;       /* the record to look at next */
	__u64 expired;  /* flows that went, ever */
	__u64 released; /* record numbers given back, ever */
};

/* What `reassign` is to do, and how far it is; user space writes it before the first run. */
struct move {
	__u64 at;    /* the last record it has looked at */
	__u64 moved; /* flows that have a new owner … */
	__u64 ended; /* … and those that end with the old one */
	__u8 from;
	__u8 to;
	__u8 keep_own; /* the old owner lives: what it began itself stays with it */
	__u8 pad[5];
};
_Static_assert(sizeof(struct move) == 32, "move has no hidden padding");

#define AA_REFUSALS 64

/* What `reserve` is to do, and what came of it; user space writes it before the first run. */
struct reservation {
	__u64 at;     /* the last record it has looked at */
	__u64 owners; /* a bit a node id: of whose flows */
	__u64 made;
	__u64 present; /* entries that were there */
	__u64 refused;
	__u32 datagrams_s; /* timeouts, s */
	__u32 stream_s;
	__u32 which[AA_REFUSALS]; /* records of the first that were refused */
};
_Static_assert(sizeof(struct reservation) == 48 + 4 * AA_REFUSALS, "reservation has no hidden padding");

/* The journal's ends, on the primary; the first line is written by whoever changes a flow, the second by who sends. */
struct replication {
	__u64 head;      /* entries ever written */
	__u64 listeners; /* nodes that mirror the table; 0: nothing is sent */
	__u64 armed;     /* the agent sleeps: the next entry wakes it */
	__u64 pad[5];
	__u64 cursor;  /* entries before it have been sent */
	__u64 sent_ns; /* when the last ones were */
	__u64 frames;
	__u64 records;
	__u64 again;   /* records sent once more since a node asked for them */
	__u64 skipped; /* entries that were written over before they were sent */
	__u64 pad2[2];
};
_Static_assert(sizeof(struct replication) == 128, "two cache lines");

/* Records to be journalled again; only `rejournal` and its caller use it. */
struct walk {
	__u32 at;
	__u32 last;
	__u32 free; /* those that are not in use, too */
	__u32 pad;
};
_Static_assert(sizeof(struct walk) == 16, "walk has no hidden padding");

/* What has come of the primary's journal, on an auxiliary. `low`, `closed` and `armed` are user space's to set. */
struct mirrored {
	__u64 lock;     /* a frame is being applied */
	__u64 closed;   /* user space is at the table: frames are dropped */
	__u64 low;      /* entries before it have come, or were given up */
	__u64 next;     /* one more than the highest position that has come */
	__u64 head;     /* the primary's, as far as frames have told */
	__u64 heard_ns; /* when the last frame came */
	__u64 armed;    /* the agent sleeps: the next gap wakes it */
	__u64 frames;
	__u64 records; /* applied */
	__u64 stale;   /* older than what was there */
	__u64 refused; /* no such number here, or no free place */
	__u64 gaps;
	__u64 generation; /* user space's: of the journal that this counts */
	__u64 pad[3];
};
_Static_assert(sizeof(struct mirrored) == 128, "two cache lines");

/* How `sequence.node` is read. */
enum schedule_kind {
	SCHEDULE_IN_TURN = 0,     /* round-robin and weighted: one after the other */
	SCHEDULE_LEAST = 1,       /* each node once: the one with the fewest live flows for its weight */
	SCHEDULE_SOURCE_HASH = 2, /* a table: the client's address points into it */
	SCHEDULE_RANDOM = 3,      /* any place */
};

struct sequence {
	__u32 length;
	__u32 kind;                /* enum schedule_kind */
	__u64 members;             /* a bit a node id: those that may get new sessions */
	__u8 weight[AA_MAX_NODES]; /* by node id */
	__u8 node[AA_SEQUENCE_CAPACITY];
};

/* A policy in force; its lines are in `rules`. */
struct policy {
	__u32 lines;
	__u32 keep; /* the default: 0 share, 1 keep; all zero, as maps begin, shares everything */
	__u32 keep_mark;
	__u32 keep_mask; /* 0: no mark keeps a session */
};

/* One line of a rule: a rule with several port ranges has several. Addresses are v4-mapped. */
struct rule {
	__u8 source[16];
	__u8 source_mask[16];
	__u8 destination[16];
	__u8 destination_mask[16];
	__u32 mark;
	__u32 mark_mask;
	__u16 source_first; /* ports, host order */
	__u16 source_last;
	__u16 first;
	__u16 last;
	__u16 slots;   /* a bit a data interface */
	__u8 protocol; /* 0: any */
	__u8 family;   /* 4, 6; 0: either */
	__u8 share;
	__u8 number; /* of the rule */
	__u8 pad[2];
};
_Static_assert(sizeof(struct rule) == 88, "rule has no hidden padding");

/* Who a client is to persistence: its address under the configured prefix. */
struct client {
	__u8 address[16];
};

struct binding {
	__u64 seen_ns; /* when its last session began */
	__u32 node;
	__u32 pad;
};

struct question_key {
	__u8 target[16];
	__u32 slot;
};

struct question {
	__u64 asked_ns;
	__u8 asker[AA_MAX_NODES]; /* one byte a node: setting one never disturbs another. Auxiliary: [ANSWERED] alone */
	__u8 address[16];         /* auxiliary, over IPv6: which of its addresses asks, so where the answer goes */
};
_Static_assert(sizeof(struct question) == 88, "question has no hidden padding");

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
	__u8 reply;    /* direction … */
	__u8 pad;
	__u32 record; /* … and record of its flow; 0: none */
};
_Static_assert(sizeof(struct fragment) == 16, "fragment has no hidden padding");

/* A session that a conntrack helper expects (its source port is anything). */
struct expectation_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__be16 dport;
	__u8 protocol;
	__u8 family;
};
_Static_assert(sizeof(struct expectation_key) == 36, "expectation_key has no hidden padding");

struct expectation {
	__u64 until_ns; /* coarse */
	__u8 owner;     /* node id: of its master */
	__u8 pad[7];
};
_Static_assert(sizeof(struct expectation) == 16, "expectation has no hidden padding");

/* A verified SYN whose entry the agent makes, since only user space can give it a helper. */
#define AA_PUNT_FRAME 2048 /* a power of two, above any SYN that is handed off with a helper */

struct punt {
	__u32 ifindex; /* it came in on */
	__u32 length;
	__u8 frame[AA_PUNT_FRAME];
};
_Static_assert(sizeof(struct punt) == 8 + AA_PUNT_FRAME, "punt has no hidden padding");

enum event_kind {
	EVENT_NEIGHBOUR = 1,
	EVENT_REFUSED_BLOCK = 2,
	EVENT_TABLE_FULL = 3,
	EVENT_JOURNAL = 4, /* the first entry since the agent went to sleep */
	EVENT_GAP = 5,     /* replica frames are missing before the one that has come */
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
