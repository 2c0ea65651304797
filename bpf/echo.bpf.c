// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * echo: TC ingress on the HA link, behind the others there: answers the primary's pulses, notes the answers of nodes
 * (docs/liveness.md). On data interfaces `adopt` does the one and `admit` the other.
 * Writes pulses; reads config.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "pulse.h"

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
