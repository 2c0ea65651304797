/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The relay's four steps for IPv6 (docs/ndp-relay.md); bpf/arp_relay.bpf.c has the programs, and the same for IPv4. */
#ifndef AA_NDP_RELAY_H
#define AA_NDP_RELAY_H

#include "ndp.h"
#include "relay.h"

#define FAMILY_INET6 10
#define NDP_OPTIONS_MOST 256 /* bytes of options that are looked at; an advertisement with more is the stack's alone */

/* ARP's layout with addresses of 16 bytes. */
struct arp_ipv6 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[16];
	__u8 target_mac[6];
	__u8 target_ip[16];
} __attribute__((packed, aligned(2)));
_Static_assert(sizeof(struct arp_ipv6) == 52, "RFC 826");

/* A 201 or 202 for IPv6; what stands behind it in the frame means nothing. */
struct ndp_relayed {
	__u8 to[6];
	__u8 from[6];
	__be16 type;
	struct arp_ipv6 arp;
} __attribute__((packed, aligned(2)));
_Static_assert(sizeof(struct ndp_relayed) == 66, "Ethernet, then ARP for IPv6");

/* A frame from its beginning to NDP's options, on the stack: there the verifier wants words where words belong. */
struct ndp_frame {
	__u8 pad[2];
	struct ethhdr eth;
	struct ndp_head head;
};
_Static_assert(sizeof(struct ndp_frame) == 80, "the IPv6 header is aligned");
#define NDP_FRAME (sizeof(struct ethhdr) + sizeof(struct ndp_head))

static __always_inline void begin_relayed(struct ndp_relayed *frame, __u16 operation, const __u8 *to, const __u8 *from)
{
	__builtin_memcpy(frame->to, to, 6);
	__builtin_memcpy(frame->from, from, 6);
	frame->type = be16(ETH_P_ARP);
	frame->arp.hardware_type = be16(ARP_HEADER_TYPE_ETHER);
	frame->arp.protocol_type = be16(ETH_P_IPV6);
	frame->arp.hardware_length = 6;
	frame->arp.protocol_length = 16;
	frame->arp.operation = be16(operation);
}

static __always_inline void address_key_init(struct question_key *key, __u32 slot, const __u8 target[16])
{
	__builtin_memcpy(key->target, target, 16);
	key->slot = slot;
}

/* Is the ARP frame about IPv6? `cursor` stands behind the Ethernet header. */
static __always_inline bool is_about_ipv6(const struct cursor *cursor)
{
	const struct arp_ipv6 *arp = cursor->at;

	return (void *)(&arp->hardware_length) <= cursor->end && arp->protocol_type == be16(ETH_P_IPV6);
}

/* The operation of a 201 or 202 for IPv6, or −1. */
static __always_inline int load_relayed(struct __sk_buff *skb, struct ndp_relayed *frame)
{
	if (bpf_skb_load_bytes(skb, 0, frame, sizeof(*frame)))
		return -1;
	if (frame->arp.hardware_type != be16(ARP_HEADER_TYPE_ETHER) || frame->arp.hardware_length != 6 ||
	    frame->arp.protocol_length != 16)
		return -1;
	return host16(frame->arp.operation);
}

/* 0: a solicitation that wants an answer. −1: anything else, duplicate address detection too. */
static __always_inline int load_solicitation(struct __sk_buff *skb, struct ndp_head *ask)
{
	if (bpf_skb_load_bytes(skb, ETH_HLEN, ask, sizeof(*ask)))
		return -1;
	if (ask->ip.next != PROTOCOL_ICMPV6 || ask->type != NDP_SOLICITATION || ask->code ||
	    host16(ask->ip.length) < NDP_LEAST || is_zero_address(ask->ip.saddr) || !is_askable(ask->target))
		return -1;
	return 0;
}

/*
 * Auxiliary, leaving a data interface: a solicitation becomes a 201; whatever else would tell that this node is on the
 * segment stays. `tagged`: for another segment, for which there is no relay. `at`: where the IPv6 header begins.
 */
static __always_inline int ndp_ask(struct __sk_buff *skb, const struct cursor *cursor, bool multicast, bool tagged, __u32 at)
{
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	const struct ipv6_header *ip = cursor->at;
	struct ndp_relayed frame = {};
	struct question question = {};
	struct question_key key;
	struct ndp_head ask;

	if ((void *)(ip + 1) > cursor->end)
		return verdict(TC_ACT_SHOT, NDP_KEPT);
	if (!multicast && !ndp_type(skb, at + sizeof(*ip), ip->next))
		return verdict(TC_ACT_UNSPEC, ARP_OUT);
	if (!conf || !port || tagged || load_solicitation(skb, &ask))
		return verdict(TC_ACT_SHOT, NDP_KEPT);

	address_key_init(&key, port->slot, ask.target);
	question.asked_ns = bpf_ktime_get_ns();
	__builtin_memcpy(question.address, ask.ip.saddr, 16);
	questions.update(&key, &question);
	begin_relayed(&frame, ARP_RELAY_REQUEST, conf->primary_ha_mac, conf->ha_mac);
	__builtin_memcpy(frame.arp.sender_mac, port->physical_mac, 6);
	__builtin_memcpy(frame.arp.sender_ip, ask.ip.saddr, 16);
	frame.arp.target_mac[ASKER_BYTE] = conf->self;
	frame.arp.target_mac[SLOT_BYTE] = port->slot;
	__builtin_memcpy(frame.arp.target_ip, ask.target, 16);
	if (bpf_skb_change_tail(skb, sizeof(frame), 0) || bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	count(NDP_ASKED);
	return send_twice(skb, conf);
}

/* On the data segment, as the primary's own stack would, and from an address of its own: the asker's may be nobody's here. */
static __always_inline int solicit(struct __sk_buff *skb, const struct asking *asking, const struct question_key *key)
{
	__u8 group[6] = {0x33, 0x33, 0xff};
	const struct port *port = asking->port;
	const __u8 *target = key->target;
	struct ndp_packet packet = {};

	if (!note_asker(key, asking->asker))
		return verdict(TC_ACT_SHOT, RELAY_TWICE);
	packet.head.type = NDP_SOLICITATION;
	packet.option = NDP_SOURCE_MAC;
	__builtin_memcpy(packet.head.ip.saddr, port->solicitor, 16);
	packet.head.ip.daddr[0] = 0xff; /* ff02::1:ff00:0/104, then the target's last three bytes */
	packet.head.ip.daddr[1] = 0x02;
	packet.head.ip.daddr[11] = 0x01;
	packet.head.ip.daddr[12] = 0xff;
	__builtin_memcpy(packet.head.ip.daddr + 13, target + 13, 3);
	__builtin_memcpy(group + 3, target + 13, 3);
	__builtin_memcpy(packet.head.target, target, 16);
	__builtin_memcpy(packet.mac, port->virtual_mac, 6);
	if (write_ndp(skb, &packet, group, port->virtual_mac))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	count(NDP_ON_WIRE);
	return bpf_redirect(port->ifindex, 0);
}

#define ASK_ON_WIRE 1

/* 0: `mac` is what the neighbour table has. −1: the target is not on that segment. */
static __always_inline int look_up(struct __sk_buff *skb, const struct port *port, const __u8 target[16], __u8 *mac)
{
	struct bpf_fib_lookup fib = {};
	int found;

	if (is_link_local(target)) /* which a look-up refuses, as they are never forwarded to */
		return ASK_ON_WIRE;
	fib.family = FAMILY_INET6;
	fib.ifindex = port->ifindex;
	__builtin_memcpy(fib.ipv6_dst, target, 16);
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	if ((found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) ||
	    fib.ifindex != port->ifindex || !same_address((const __u8 *)fib.ipv6_dst, target)) /* a gateway's */
		return -1;
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return ASK_ON_WIRE;
	__builtin_memcpy(mac, fib.dmac, 6);
	return 0;
}

/* Primary, from the HA link. */
static __always_inline int ndp_serve(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct ndp_relayed frame;
	struct asking asking;
	struct question_key key;
	__u8 answer[6];
	int operation = load_relayed(skb, &frame), why;

	if (operation == ARP_RELAY_REPLY)
		return verdict(TC_ACT_SHOT, ARP_MISPLACED);
	if (operation != ARP_RELAY_REQUEST)
		return verdict(TC_ACT_SHOT, ARP_MALFORMED);
	why = who_asks(conf, frame.from, frame.arp.target_mac, &asking);
	if (why != ASKING_WELL)
		return verdict(TC_ACT_SHOT, why);
	address_key_init(&key, asking.slot, frame.arp.target_ip);
	if (!asking.port || is_zero_address(asking.port->solicitor) || !is_askable(key.target))
		return verdict(TC_ACT_SHOT, NDP_NO_ROUTE);
	why = look_up(skb, asking.port, key.target, answer);
	if (why < 0)
		return verdict(TC_ACT_SHOT, NDP_NO_ROUTE);
	if (why == ASK_ON_WIRE)
		return solicit(skb, &asking, &key);
	begin_relayed(&frame, ARP_RELAY_REPLY, asking.node->ha_mac, conf->ha_mac);
	__builtin_memcpy(frame.arp.target_ip, frame.arp.sender_ip, 16);
	__builtin_memcpy(frame.arp.target_mac, mac_of(asking.node, asking.slot), 6);
	__builtin_memcpy(frame.arp.sender_ip, key.target, 16);
	__builtin_memcpy(frame.arp.sender_mac, answer, 6);
	if (bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	count(NDP_FROM_CACHE);
	return bpf_redirect(conf->ha_ifindex, 0);
}

/*
 * 0 and the MAC that the advertisement has for its target; −1 when it has none, or its checksum is wrong: the stack has not
 * looked at it yet.
 */
static __always_inline int read_advertisement(struct __sk_buff *skb, const struct ndp_head *head, __u8 *mac)
{
	__u32 length = host16(head->ip.length), at, next = NDP_LEAST;
	__u64 sum = ndp_pseudo_sum(length);
	union {
		__u32 word[2];
		__u8 byte[8];
	} unit;
	bool found = false;

	if (length < NDP_LEAST || length > NDP_LEAST + NDP_OPTIONS_MOST || length % NDP_UNIT)
		return -1;
	sum += (__u32)bpf_csum_diff(0, 0, (__be32 *)head->ip.saddr, 32 + NDP_LEAST, 0);
#pragma nounroll
	for (at = NDP_LEAST; at < NDP_LEAST + NDP_OPTIONS_MOST; at += NDP_UNIT) {
		if (at >= length)
			break;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6_header) + at, &unit, sizeof(unit)))
			return -1;
		sum += (__u64)unit.word[0] + unit.word[1];
		if (at != next)
			continue;
		if (!unit.byte[1])
			return -1;
		next += NDP_UNIT * unit.byte[1];
		if (unit.byte[0] == NDP_TARGET_MAC && unit.byte[1] == 1) {
			__builtin_memcpy(mac, unit.byte + 2, 6);
			found = true;
		}
	}
	return found && !(mac[0] & 1) && ndp_fold(sum) == 0xffff ? 0 : -1;
}

/* One 202 for each of the nodes in `askers`; the frame has room for it, whatever it was. */
static __always_inline int answer_ndp_askers(struct __sk_buff *skb, const struct config *conf, __u64 askers,
					     struct ndp_relayed *frame, __u32 slot)
{
	const struct node *node;
	int id;

	for (id = 1; id < AA_MAX_NODES; id++) {
		if (!(askers >> id & 1))
			continue;
		node = node_of(id);
		if (!node || node->hop != HOP_STEER)
			continue;
		__builtin_memcpy(frame->to, node->ha_mac, 6);
		__builtin_memcpy(frame->arp.target_mac, mac_of(node, slot), 6);
		if (bpf_skb_store_bytes(skb, 0, frame, sizeof(*frame), 0))
			return -1;
		bpf_clone_redirect(skb, conf->ha_ifindex, 0);
		if (bpf_clone_redirect(skb, conf->ha_ifindex, 0) == 0)
			count(NDP_ANSWERED);
	}
	return 0;
}

static __always_inline __u64 askers_of(const struct question *question)
{
	__u64 askers = 0;
	int id;

	for (id = 1; id < AA_MAX_NODES; id++) /* no branches: the verifier would follow each way through them */
		askers |= (__u64)(question->asker[id] & 1) << id;
	return askers;
}

/* Primary, from a data segment: an answer to an open question goes to who asked, and in any case on as it came. */
static __always_inline int ndp_answer(struct __sk_buff *skb, const struct cursor *cursor)
{
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	const struct ipv6_header *ip = cursor->at;
	struct question *question;
	struct ndp_relayed frame = {};
	struct question_key key;
	struct ndp_frame came;
	__u64 askers;

	if ((void *)(ip + 1) > cursor->end || ip->next != PROTOCOL_ICMPV6 || ip->hops != NDP_HOPS || !conf || !port ||
	    bpf_skb_load_bytes(skb, 0, &came.eth, NDP_FRAME) || came.head.type != NDP_ADVERTISEMENT || came.head.code)
		return verdict(TC_ACT_UNSPEC, ARP_OTHER);
	address_key_init(&key, port->slot, came.head.target);
	question = questions.lookup(&key);
	if (!is_open(question, bpf_ktime_get_ns()) || read_advertisement(skb, &came.head, frame.arp.sender_mac))
		return verdict(TC_ACT_UNSPEC, ARP_OTHER);

	askers = askers_of(question);
	questions.delete(&key);
	tell_neighbour(&key, frame.arp.sender_mac);
	begin_relayed(&frame, ARP_RELAY_REPLY, conf->ha_mac, conf->ha_mac);
	__builtin_memcpy(frame.arp.sender_ip, key.target, 16);
	__builtin_memcpy(frame.arp.target_ip, came.head.ip.daddr, 16);
	if (answer_ndp_askers(skb, conf, askers, &frame, key.slot) ||
	    bpf_skb_store_bytes(skb, 0, &came.eth, NDP_FRAME, 0))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	return TC_ACT_UNSPEC;
}

/* Auxiliary, from the HA link: where the answer goes is what was noted here, whatever the frame says. */
static __always_inline int ndp_take(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct ndp_packet packet = {};
	struct question *question;
	const struct port *port;
	struct ndp_relayed frame;
	struct question_key key;
	int operation = load_relayed(skb, &frame), why;
	__u32 slot = 0;

	if (operation == ARP_RELAY_REQUEST)
		return verdict(TC_ACT_SHOT, ARP_MISPLACED);
	if (operation != ARP_RELAY_REPLY)
		return verdict(TC_ACT_SHOT, ARP_MALFORMED);
	if (!conf || !same_mac(frame.from, conf->primary_ha_mac))
		return verdict(TC_ACT_SHOT, NDP_UNASKED);
	port = port_by_mac(frame.arp.target_mac, &slot);
	if (!port)
		return verdict(TC_ACT_SHOT, NDP_UNASKED);
	address_key_init(&key, slot, frame.arp.sender_ip);
	question = questions.lookup(&key);
	why = take_answer(question, NDP_UNASKED);
	if (why != ASKING_WELL)
		return verdict(TC_ACT_SHOT, why);
	__builtin_memcpy(packet.head.ip.daddr, question->address, 16);
	packet.head.type = NDP_ADVERTISEMENT;
	packet.head.flags = be32(NDP_SOLICITED | NDP_OVERRIDE);
	packet.option = NDP_TARGET_MAC;
	__builtin_memcpy(packet.head.ip.saddr, key.target, 16);
	__builtin_memcpy(packet.head.target, key.target, 16);
	__builtin_memcpy(packet.mac, frame.arp.sender_mac, 6);
	if (write_ndp(skb, &packet, port->physical_mac, packet.mac))
		return verdict(TC_ACT_SHOT, ARP_FAILED);
	skb->mark = ARP_ACCEPTED_MARK; /* counted as taken when the guard lets it in */
	return bpf_redirect(port->ifindex, BPF_F_INGRESS);
}

#endif
