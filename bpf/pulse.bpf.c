// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pulse: is a node there? (docs/liveness.md)
 *
 *   pulse   asks one node on each of its links. Attached nowhere: the agent of the primary runs it with BPF_PROG_TEST_RUN,
 *           the node's id in cb[0], a frame as long as a pulse as its packet. Its return value has a bit for each link
 *           whose last pulse, of the run before, has not been answered.
 *   echo    TC ingress of the HA link, behind the others there: an auxiliary answers, the primary notes the answer. On
 *           data interfaces `adopt` does the one and `admit` the other.
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

int pulse(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	__u8 id = skb->cb[0] & (AA_MAX_NODES - 1);
	const struct node *node = node_of(id);
	__u8 to[6], from[6];
	__u32 ifindex;
	__u64 doubts = 0;
	int link;

	if (id == 0 || id == conf->self)
		return 0;
	for (link = 0; link < AA_LINKS; link++) {
		if (link == AA_HA_LINK) {
			ifindex = conf->ha_ifindex;
			copy_mac(to, node->ha_mac);
			copy_mac(from, conf->ha_mac);
		} else {
			int slot = link; /* the counter itself stays where the verifier knows its value */
			const struct port *port = slots.lookup(&slot);

			if (!port || !port->ifindex)
				continue;
			ifindex = port->ifindex;
			copy_mac(to, mac_of(node, link));
			copy_mac(from, port->virtual_mac);
		}
		doubts |= send_pulse(skb, conf, id, link, ifindex, to, from) << link;
	}
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
