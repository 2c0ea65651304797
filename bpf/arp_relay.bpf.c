// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * arp_relay: only the primary speaks ARP and NDP on data segments; an auxiliary asks it over the HA link
 * (docs/arp-relay.md, docs/ndp-relay.md). What each program does with IPv6 is in ndp_relay.h.
 *
 *   arp_ask     auxiliary, TC egress of data interfaces: a request becomes opcode 201 on the HA link
 *   arp_serve   primary, TC ingress of the HA link: 201 is answered from the neighbour table or asked on the wire
 *   arp_answer  primary, TC ingress of data interfaces: a reply goes to the stack, and as 202 to each node that asked
 *   arp_take    auxiliary, TC ingress of the HA link: a 202 to an open question becomes the kernel's reply
 *
 * All of these interfaces have another program behind these (announce, admit, mirror, echo): what is nothing for the
 * relay goes there.
 * Writes questions; reads config, ports, slots, nodes; the agent learns neighbours through events.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "arp.h"
#include "maps.h"
#include "ndp_relay.h"
#include "parse.h"
#include "relay.h"

#define FAMILY_INET 2

int arp_ask(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	__u8 asker[6] = {};
	struct question question = {};
	struct question_key key;
	struct arp_ipv4 *arp;
	struct ethhdr *eth;
	__u32 at = ETH_HLEN;
	bool tagged;
	int type;

	type = parse_ethernet(&cursor, &eth);
	tagged = skb->vlan_present || is_tag(type);
	if (is_tag(type)) {
		type = parse_tag(&cursor);
		at += sizeof(struct vlan_tag);
	}
	if (is_tag(type)) {
		type = parse_tag(&cursor);
		at += sizeof(struct vlan_tag);
	}
	if (type == be16(ETH_P_IPV6))
		return ndp_ask(skb, &cursor, eth->h_dest[0] & 1, tagged, at);
	if (type != be16(ETH_P_ARP))
		return verdict(TC_ACT_UNSPEC, ARP_OUT);
	if (!conf || !port || tagged || parse_arp(&cursor, &arp) != ARP_REQUEST || arp->sender_ip == arp->target_ip ||
	    arp->sender_ip == 0)
		return verdict(TC_ACT_SHOT, ARP_KEPT); /* replies, gratuitous ARP, address probes, another segment's */

	question_key_init(&key, port->slot, arp->target_ip);
	question.asked_ns = bpf_ktime_get_ns();
	questions.update(&key, &question);
	asker[ASKER_BYTE] = conf->self;
	asker[SLOT_BYTE] = port->slot;
	if (write_arp(skb, ARP_RELAY_REQUEST, port->physical_mac, arp->sender_ip, asker, arp->target_ip) ||
	    write_ethernet(skb, conf->primary_ha_mac, conf->ha_mac))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	count(ARP_ASKED);
	return send_twice(skb, conf);
}

/* Asks on the data segment, as the primary's own stack would, and notes who wants to know. */
static __always_inline int ask_on_wire(struct __sk_buff *skb, const struct port *port, __u8 asker, __be32 sender,
				       __be32 target)
{
	const __u8 everyone[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, nobody[6] = {};
	struct question_key key;

	question_key_init(&key, port->slot, target);
	if (!note_asker(&key, asker))
		return verdict(TC_ACT_SHOT, RELAY_TWICE);
	if (write_arp(skb, ARP_REQUEST, port->virtual_mac, sender, nobody, target) ||
	    write_ethernet(skb, everyone, port->virtual_mac))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	count(ARP_ON_WIRE);
	return bpf_redirect(port->ifindex, 0);
}

int arp_serve(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	struct bpf_fib_lookup fib = {};
	struct asking asking;
	const struct port *port;
	struct arp_ipv4 *arp;
	struct ethhdr *eth;
	__be32 sender, target;
	int operation, why, found;

	if (parse_ethernet(&cursor, &eth) != be16(ETH_P_ARP))
		return verdict(TC_ACT_UNSPEC, ARP_OTHER);
	if (is_about_ipv6(&cursor))
		return ndp_serve(skb);
	operation = parse_arp(&cursor, &arp);
	if (operation < 0)
		return verdict(TC_ACT_SHOT, ARP_MALFORMED);
	if (operation == ARP_RELAY_REPLY)
		return verdict(TC_ACT_SHOT, ARP_MISPLACED);
	if (operation != ARP_RELAY_REQUEST)
		return verdict(TC_ACT_OK, ARP_OTHER);

	sender = arp->sender_ip;
	target = arp->target_ip;
	why = who_asks(conf, eth->h_source, arp->target_mac, &asking);
	if (why != ASKING_WELL)
		return verdict(TC_ACT_SHOT, why);
	port = asking.port;
	if (!port)
		return verdict(TC_ACT_SHOT, ARP_NO_ROUTE);

	/* Asked as the data interface would ask: forwarding need not be on for the HA link. */
	fib.family = FAMILY_INET;
	fib.ifindex = port->ifindex;
	fib.ipv4_src = sender;
	fib.ipv4_dst = target;
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	if ((found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) ||
	    fib.ifindex != port->ifindex || fib.ipv4_dst != target) /* a gateway's address: not on that segment */
		return verdict(TC_ACT_SHOT, ARP_NO_ROUTE);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return ask_on_wire(skb, port, asking.asker, sender, target);
	if (write_arp(skb, ARP_RELAY_REPLY, fib.dmac, target, mac_of(asking.node, asking.slot), sender) ||
	    write_ethernet(skb, asking.node->ha_mac, conf->ha_mac))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	count(ARP_FROM_CACHE);
	return bpf_redirect(conf->ha_ifindex, 0);
}

/* One 202 for each node that asked: an address can be asked for by all of them at once. */
static __always_inline int answer_askers(struct __sk_buff *skb, const struct config *conf,
					 const struct question *question, const struct arp_ipv4 *answer, __u32 slot)
{
	const struct node *node;
	int id;

	for (id = 1; id < AA_MAX_NODES; id++) {
		if (!question->asker[id])
			continue;
		node = node_of(id);
		if (!node || node->hop != HOP_STEER)
			continue;
		if (write_arp(skb, ARP_RELAY_REPLY, answer->sender_mac, answer->sender_ip,
			      mac_of(node, slot), answer->target_ip) ||
		    write_ethernet(skb, node->ha_mac, conf->ha_mac))
			return -1;
		bpf_clone_redirect(skb, conf->ha_ifindex, 0);
		if (bpf_clone_redirect(skb, conf->ha_ifindex, 0) == 0)
			count(ARP_ANSWERED);
	}
	return 0;
}

int arp_answer(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	struct question *question, asked;
	struct question_key key;
	struct arp_ipv4 *arp, answer;
	struct ethhdr *eth, ethernet;
	int operation, type;

	type = parse_ethernet(&cursor, &eth);
	if (type == be16(ETH_P_IPV6))
		return ndp_answer(skb, &cursor);
	if (type != be16(ETH_P_ARP))
		return verdict(TC_ACT_UNSPEC, ARP_OTHER);
	if (is_about_ipv6(&cursor)) /* nobody but the relay has such a thing */
		return verdict(TC_ACT_SHOT, ARP_ON_DATA);
	operation = parse_arp(&cursor, &arp);
	if (operation == ARP_RELAY_REQUEST || operation == ARP_RELAY_REPLY)
		return verdict(TC_ACT_SHOT, ARP_ON_DATA);
	if (operation != ARP_REPLY || !conf || !port)
		return verdict(TC_ACT_OK, ARP_OTHER);
	question_key_init(&key, port->slot, arp->sender_ip);
	question = questions.lookup(&key);
	if (!is_open(question, bpf_ktime_get_ns()))
		return verdict(TC_ACT_OK, ARP_OTHER);

	answer = *arp;
	ethernet = *eth;
	asked = *question;
	questions.delete(&key);
	tell_neighbour(&key, answer.sender_mac);
	/* The frame goes on to the primary's own stack, as it came. */
	if (answer_askers(skb, conf, &asked, &answer, key.slot) ||
	    write_arp(skb, ARP_REPLY, answer.sender_mac, answer.sender_ip, answer.target_mac, answer.target_ip) ||
	    write_ethernet(skb, ethernet.h_dest, ethernet.h_source))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	return TC_ACT_OK;
}

int arp_take(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port;
	struct question_key key;
	struct arp_ipv4 *arp, answer;
	struct ethhdr *eth;
	int operation, why;
	__u32 slot = 0;

	if (parse_ethernet(&cursor, &eth) != be16(ETH_P_ARP))
		return verdict(TC_ACT_UNSPEC, ARP_OTHER);
	if (is_about_ipv6(&cursor))
		return ndp_take(skb);
	operation = parse_arp(&cursor, &arp);
	if (operation < 0)
		return verdict(TC_ACT_SHOT, ARP_MALFORMED);
	if (operation == ARP_RELAY_REQUEST)
		return verdict(TC_ACT_SHOT, ARP_MISPLACED);
	if (operation != ARP_RELAY_REPLY)
		return verdict(TC_ACT_OK, ARP_OTHER);
	if (!conf || !same_mac(eth->h_source, conf->primary_ha_mac))
		return verdict(TC_ACT_SHOT, ARP_UNASKED);

	answer = *arp;
	port = port_by_mac(answer.target_mac, &slot); /* whose MAC was asked for tells the interface */
	if (!port)
		return verdict(TC_ACT_SHOT, ARP_UNASKED);
	question_key_init(&key, slot, answer.sender_ip);
	why = take_answer(questions.lookup(&key), ARP_UNASKED);
	if (why != ASKING_WELL)
		return verdict(TC_ACT_SHOT, why);
	if (write_arp(skb, ARP_REPLY, answer.sender_mac, answer.sender_ip, answer.target_mac, answer.target_ip) ||
	    write_ethernet(skb, port->physical_mac, answer.sender_mac))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	skb->mark = ARP_ACCEPTED_MARK; /* counted as taken when the guard lets it in */
	return bpf_redirect(port->ifindex, BPF_F_INGRESS);
}
