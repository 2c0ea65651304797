/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every map, declared once. The sizes here are placeholders: bcc creates the maps it compiles against, and the loader
 * puts its own pinned maps in their place (dataplane/maps.py has sizes and flags).
 */
#ifndef AA_MAPS_H
#define AA_MAPS_H

#include "reasons.h"
#include "types.h"

BPF_ARRAY(config, struct config, 1);            /* written by the agent, read by every program */
BPF_TABLE("hash", __u32, struct port, ports, 1);   /* by ifindex */
BPF_ARRAY(slots, struct port, AA_MAX_PORTS);       /* the same by slot */
BPF_ARRAY(nodes, struct node, AA_MAX_NODES);       /* by node id */
BPF_TABLE("hash", struct tuple, struct flow, flows, 1); /* each flow under both its tuples */
BPF_ARRAY(bank, __u32, 1);                         /* which of the two sequences is in force */
BPF_ARRAY(sequences, struct sequence, 2);          /* node ids in turn; the one not in force is rewritten */
BPF_ARRAY(turns, __u64, 1);                         /* sessions scheduled so far; only `handoff` writes it */
BPF_TABLE("hash", struct question_key, struct question, questions, 1); /* open ARP questions */
BPF_TABLE("percpu_array", __u32, __u64, reasons, AA_REASON_COUNT);
BPF_RINGBUF_OUTPUT(events, 1);                     /* what the agent is told */

static __always_inline void count(enum reason why)
{
	__u32 index = why;
	__u64 *packets = reasons.lookup(&index);

	if (packets)
		(*packets)++;
}

/* A verdict is always given with its reason. */
static __always_inline int verdict(int action, enum reason why)
{
	count(why);
	return action;
}

static __always_inline const struct config *configuration(void)
{
	int zero = 0;

	return config.lookup(&zero);
}

static __always_inline const struct port *port_of(__u32 ifindex)
{
	return ports.lookup(&ifindex);
}

static __always_inline const struct node *node_of(__u8 id)
{
	int index = id;

	return nodes.lookup(&index);
}

#endif
