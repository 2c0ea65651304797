/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every map, declared once. The sizes here are placeholders: bcc creates the maps it compiles against, and the loader
 * puts its own pinned maps in their place (dataplane/maps.py has sizes and flags).
 */
#ifndef AA_MAPS_H
#define AA_MAPS_H

#include "reasons.h"
#include "types.h"

BPF_ARRAY(config, struct config, 1);         /* written by the agent, read by every program */
BPF_ARRAY(ports, struct port, AA_PORT_TABLE); /* by the low bits of the ifindex */
BPF_ARRAY(slots, struct port, AA_MAX_PORTS);  /* the same by slot */
BPF_ARRAY(nodes, struct node, AA_MAX_NODES);  /* by node id */
BPF_TABLE("array", __u32, struct bucket, buckets, 1); /* the flow table, hot: see flow_table.h */
BPF_TABLE("array", __u32, struct record, records, 1); /* … and cold */
BPF_TABLE("array", __u32, struct account, accounts, 1); /* … what its flows carried, by record number */
BPF_ARRAY(watermark, __u64, 1);               /* the highest record number given out so far */
BPF_QUEUE(released, __u32, 1);                /* record numbers that can be given out again */
BPF_ARRAY(swept, struct sweep, 1);            /* only the sweep writes it */
BPF_ARRAY(moving, struct move, 1);            /* the arguments and the progress of `reassign` */
BPF_ARRAY(reserving, struct reservation, 1);  /* the arguments and the progress of `reserve` */
BPF_ARRAY(tallies, struct tally, 1);          /* what the flow table holds, counted as it changes */
BPF_ARRAY(bank, __u32, 1);                    /* which of the two sequences is in force */
BPF_ARRAY(sequences, struct sequence, 2);     /* node ids in turn; the one not in force is rewritten */
BPF_ARRAY(turns, __u64, 1);                   /* sessions scheduled so far; only `handoff` writes it */
BPF_ARRAY(draining, __u64, 1);                /* a bit a node id: no new sessions, also none by persistence */
BPF_ARRAY(policy_bank, __u32, 1);             /* which half of the next three is in force */
BPF_ARRAY(policies, struct policy, 2);
BPF_TABLE("array", __u32, struct rule, rules, 2 * AA_RULE_LINES);
BPF_TABLE("array", __u32, __u64, rule_hits, 2 * AA_RULE_COUNTERS);
BPF_TABLE("lru_hash", struct client, struct binding, bindings, 1); /* persistence */
BPF_TABLE("hash", struct question_key, struct question, questions, 1); /* open ARP and NDP questions */
BPF_TABLE("hash", struct fragment_key, struct fragment, fragments, 1); /* packets in pieces; the oldest gives way */
BPF_TABLE("lru_hash", struct expectation_key, struct expectation, expected, 1); /* primary: by helpers, where they are shared */
BPF_TABLE("lru_hash", struct expectation_key, __u64, expecting, 1); /* auxiliary: by its own helpers, until when */
BPF_TABLE("lru_hash", struct tuple, __u64, controls, 1);  /* as packets of sessions with a helper leave */
BPF_TABLE("lru_hash", struct tuple, __u64, announced, 1); /* auxiliary: its own UDP, when it was last announced */
BPF_TABLE("array", __u32, struct pulse, pulses, AA_MAX_NODES * AA_LINKS); /* by node id and link */
BPF_TABLE("percpu_array", __u32, struct reasons, reasons, 1);          /* all counters of a CPU side by side */
BPF_TABLE("array", __u32, __u64, journal, AA_JOURNAL); /* position + 1 (lower half) and record number of each change */
BPF_ARRAY(replication, struct replication, 1); /* … and its ends */
BPF_ARRAY(walk, struct walk, 1);               /* records to be journalled again */
BPF_TABLE("array", __u32, __u64, arrived, AA_JOURNAL); /* auxiliary: position + 1 of each entry that has come */
BPF_ARRAY(mirrored, struct mirrored, 1);       /* auxiliary: what has come of the journal */
BPF_RINGBUF_OUTPUT(events, 1);                /* what the agent is told */
BPF_RINGBUF_OUTPUT(punts, 1);                 /* auxiliary: SYNs whose entry the agent is to make */

static __always_inline void count(enum reason why)
{
	__u32 zero = 0;
	struct reasons *of_this_cpu = reasons.lookup(&zero);

	if (of_this_cpu)
		of_this_cpu->packets[why]++;
}

/* A verdict is always given with its reason. */
static __always_inline int verdict(int action, enum reason why)
{
	count(why);
	return action;
}

/*
 * Maps the programs reach without a look-up: their address stands in the code. bcc knows no such thing, so it is written
 * as a number that the loader recognises (dataplane/direct.py has the same numbers), offset in the lower half. For the
 * verifier it is a pointer into the map's value, never null.
 */
static __always_inline void *direct(__u32 number)
{
	void *address = (void *)(0x7fca000000000000ull | (__u64)number << 32);

	asm("" : "+r"(address)); /* clang must not calculate with the number */
	return address;
}

static __always_inline const struct config *configuration(void)
{
	return direct(0);
}

static __always_inline const struct port *port_of(__u32 ifindex)
{
	const struct port *port = (const struct port *)direct(1) + (ifindex & (AA_PORT_TABLE - 1));

	if (port->ifindex != ifindex)
		port = 0;
	asm volatile("" : "+r"(port)); /* else clang tests the ifindex again, which tells the verifier nothing */
	return port;
}

static __always_inline const struct node *node_of(__u8 id)
{
	return (const struct node *)direct(2) + (id & (AA_MAX_NODES - 1));
}

#endif
