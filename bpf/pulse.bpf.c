// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pulse: is a node there? (docs/liveness.md)
 *
 *   pulse   asks one node on each of its links. Attached nowhere: the agent runs it with BPF_PROG_TEST_RUN, once for
 *           each node of the mask in cb[0] and cb[1] (bit n: node n), a frame as long as a pulse as its packet. What the
 *           last of the runs returns has a bit for each link on which some node has not answered the last pulse of the
 *           call before. The primary asks its nodes; a node that may be about to take its place asks the primary.
 *   echo    TC ingress of the HA link, behind the others there: whoever is asked answers, who asked notes the answer. On
 *           data interfaces `adopt` and `admit` do that.
 *
 * Writes pulses; reads config, slots, nodes.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "pulse.h"

/* 1 when the pulse before this one was not answered. */
static __always_inline __u64 send_pulse(struct __sk_buff *skb, const struct config *conf, __u8 id, __u32 link, __u32 ifindex,
					const __u8 *to, const __u8 *from)
{
	struct pulse *row = pulse_of(id, link);
	__u64 now = bpf_ktime_get_ns();
	struct pulse_frame frame = {.link = link, .sent_ns = be64(now)};
	__u64 doubt;

	if (!row)
		return 0;
	doubt = (row->answered - row->sent) >> 63; /* not a comparison: the verifier would follow both ends of each */
	hl_fill(&frame.head, conf, HL_KIND_PULSE, id, sizeof(frame));
	frame.sequence = be64(row->sent + 1);
	seal_pulse(conf, &frame);
	row->sent++; /* before it leaves: the answer may be there before this run ends */
	row->sent_ns = now;
	if (store_pulse(skb, to, from, &frame) || bpf_clone_redirect(skb, ifindex, 0))
		count(PULSE_FAILED);
	else
		count(PULSE_SENT);
	return doubt;
}

/* A context keeps its cb from run to run: what is left to do, and what came out. Test-runs have no other memory of a call. */
enum { CB_NODES_LOW, CB_NODES_HIGH, CB_DOUBTS };

/* The number of the lowest bit that is set, 64 when none is. */
static __always_inline __u32 lowest_bit(__u64 bits)
{
	__u64 below = (bits & -bits) - 1; /* as many ones as there are bits below: they are counted */

	below -= (below >> 1) & 0x5555555555555555ULL;
	below = (below & 0x3333333333333333ULL) + ((below >> 2) & 0x3333333333333333ULL);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (below * 0x0101010101010101ULL) >> 56;
}

/* Takes the next node off the mask; 0 when none is left. */
static __always_inline __u8 next_node(struct __sk_buff *skb)
{
	__u64 left = (__u64)skb->cb[CB_NODES_HIGH] << 32 | skb->cb[CB_NODES_LOW];
	__u8 id = lowest_bit(left) & (AA_MAX_NODES - 1);

	left &= left - 1;
	skb->cb[CB_NODES_LOW] = left;
	skb->cb[CB_NODES_HIGH] = left >> 32;
	return id;
}

/* None but the primary ever sends from the virtual MAC. */
static __always_inline __u32 ask_node(struct __sk_buff *skb, const struct config *conf, __u8 id)
{
	const struct node *node = node_of(id);
	bool primary = conf->self == conf->primary;
	__u8 to[6], from[6];
	__u32 ifindex;
	__u64 doubts = 0;
	int link;

	for (link = 0; link < AA_LINKS; link++) {
		if (link == AA_HA_LINK) {
			ifindex = conf->ha_ifindex;
			copy_mac(to, primary ? node->ha_mac : conf->primary_ha_mac);
			copy_mac(from, conf->ha_mac);
		} else {
			int slot = link; /* the counter itself stays where the verifier knows its value */
			const struct port *port = slots.lookup(&slot);

			if (!port || !port->ifindex)
				continue;
			ifindex = port->ifindex;
			copy_mac(to, primary ? mac_of(node, link) : port->virtual_mac);
			copy_mac(from, primary ? port->virtual_mac : port->physical_mac);
		}
		doubts |= send_pulse(skb, conf, id, link, ifindex, to, from) << link;
	}
	return doubts;
}

int pulse(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	__u8 id = next_node(skb);
	__u32 doubts = skb->cb[CB_DOUBTS];

	if (id != 0 && id != conf->self && (conf->self == conf->primary || id == conf->primary))
		doubts |= ask_node(skb, conf, id);
	skb->cb[CB_DOUBTS] = doubts;
	return doubts;
}

int echo(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	struct ethhdr *eth;
	__u8 peer[6];

	if (parse_ethernet(&cursor, &eth) != be16(ETH_P_HL))
		return verdict(TC_ACT_OK, PULSE_OTHER);
	if (!same_mac(eth->h_dest, conf->ha_mac))
		return verdict(TC_ACT_SHOT, PULSE_STRANGER);
	copy_mac(peer, eth->h_source);
	return take_pulse(skb, conf, AA_HA_LINK, peer, conf->ha_mac);
}
