// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * announce: TC egress on an auxiliary's data interfaces, behind arp_ask. Answers to a session of this node come to the
 * primary, which must know whose they are before the first one: so the first packet of a session that begins here takes
 * the way through the primary, a block with the session's tuples appended (docs/own-sessions.md). So do the packets that
 * end it. Where helpers are shared, so do sessions that a helper here expects, and before them the packet in which it read
 * that they would come: the primary knows of them before whoever opens them does. All others leave as they are.
 * Reads config, ports, controls; writes announced, expecting.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "carry.h"
#include "conntrack.h"
#include "expectation.h"
#include "helper.h"
#include "maps.h"
#include "parse.h"

/* A datagram tells nothing about where a session stands, so it is announced anew: well within any UDP timeout. */
#ifndef AA_ANNOUNCE_AGAIN_NS
#define AA_ANNOUNCE_AGAIN_NS (10 * AA_NSEC_PER_SEC)
#endif

/* What conntrack knows of the session the packet belongs to. */
struct session {
	struct tuple original;
	__u32 connmark;
	__u32 status;
};

/* 0 when the packet goes in the direction the session was opened in. */
static __always_inline int read_session(struct __sk_buff *skb, const struct tuple *leaving, struct session *session)
{
	struct ct_question question;
	struct tuple inverse;
	struct nf_conn *ct;

	invert(&inverse, leaving); /* behind POSTROUTING the packet carries the reply tuple, inverted */
	ct_question_init(&question, &inverse);
	ct = ct_ask(skb, &question);
	if (!ct)
		return -1;
	ct_tuple(ct, AA_CT_ORIGINAL, leaving, &session->original);
	session->connmark = ct_field(ct, __u32, AA_CT_MARK);
	session->status = ct_field(ct, __u32, AA_CT_STATUS);
	ct_release(ct);
	return question.options.direction == FLOW_REPLY ? 0 : -1;
}

static __always_inline void fill_announcement(struct sealed_block *sealed, const struct config *conf,
					      const struct port *port, const struct session *session,
					      const __u8 *next_hop)
{
	struct handoff_block *block = &sealed->block;

	block_begin(block, conf, block->kind, conf->self, port->slot, &session->original);
	block_carry(block, &session->original);
	block->connmark = be32(session->connmark);
	__builtin_memcpy(block->next_hop, next_hop, 6);
}

/* By way of the primary, which takes the block off and sends the packet to its next hop. */
static __always_inline int send_through_primary(struct __sk_buff *skb, const struct config *conf, const struct port *port,
						const struct load *load, struct sealed_block *sealed, enum reason why)
{
	__u32 room = load->total_length + sizeof(sealed->block);

	block_seal(conf, sealed);
	if (room > port->mtu || bpf_skb_change_tail(skb, ETH_HLEN + room, 0))
		return verdict(TC_ACT_OK, ANNOUNCE_NO_ROOM);
	if (put_block(skb, load, &sealed->block) ||
	    write_whole_ethernet(skb, port->virtual_mac, port->physical_mac, be16(ETH_P_ANNOUNCE)))
		return verdict(TC_ACT_SHOT, ANNOUNCE_FAILED);
	return verdict(TC_ACT_OK, why);
}

static __always_inline bool announced_lately(const struct tuple *leaving)
{
	__u64 *told = announced.lookup(leaving), now = bpf_ktime_get_coarse_ns();

	if (told && now - *told < AA_ANNOUNCE_AGAIN_NS)
		return true;
	announced.update(leaving, &now);
	return false;
}

/* Opens or ends a session, as far as the packet itself tells. */
static __always_inline bool matters(const struct load *load, bool own)
{
	if (load->protocol == IPPROTO_UDP)
		return own;
	return opening(load->flags) || (own && (load->flags & (TCP_FIN | TCP_RST)));
}

int announce(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	bool own = skb->ingress_ifindex == 0;
	struct sealed_block sealed;
	struct session session = {};
	enum reason why = ANNOUNCE_FLOW;
	struct load load = {};
	struct ethhdr *eth;
	__u8 next_hop[6];
	int type;

	type = parse_ethernet(&cursor, &eth);
	if ((type != be16(ETH_P_IP) && type != be16(ETH_P_IPV6)) || !port || !conf)
		return verdict(TC_ACT_OK, ANNOUNCE_OUT);
	if (!own && !(conf->features & AA_FEATURE_SHARE_HELPERS))
		return verdict(TC_ACT_OK, ANNOUNCE_OUT);
	copy_mac(next_hop, eth->h_dest);
	if (parse_load(&cursor, &load, &sealed) || skb->gso_segs > 1 || !is_whole(skb, &load))
		return verdict(TC_ACT_OK, ANNOUNCE_OUT);
	sealed.block.kind = matters(&load, own) ? BLOCK_KIND_FLOW : BLOCK_KIND_EXPECT;
	if (sealed.block.kind == BLOCK_KIND_EXPECT &&
	    (!(conf->features & AA_FEATURE_SHARE_HELPERS) || load.total_length == load.header_length ||
	     !is_control(&sealed.original)))
		return verdict(TC_ACT_OK, ANNOUNCE_OUT);
	if (skb->vlan_present)
		return verdict(TC_ACT_OK, own ? ANNOUNCE_TAGGED : ANNOUNCE_OUT);

	if (sealed.block.kind == BLOCK_KIND_EXPECT) {
		if (read_expectation(skb, &sealed.original, &session.original))
			return verdict(TC_ACT_OK, ANNOUNCE_OUT);
		expect_here(&session.original);
		why = ANNOUNCE_EXPECTATION;
	} else {
		if (load.protocol == IPPROTO_UDP && announced_lately(&sealed.original))
			return verdict(TC_ACT_OK, ANNOUNCE_OUT);
		if (read_session(skb, &sealed.original, &session))
			return verdict(TC_ACT_OK, own && opening(load.flags) ? ANNOUNCE_NO_ENTRY : ANNOUNCE_OUT);
		if (!own && !(session.status & IPS_EXPECTED))
			return verdict(TC_ACT_OK, ANNOUNCE_OUT);
		if (!own)
			why = ANNOUNCE_EXPECTED;
	}
	fill_announcement(&sealed, conf, port, &session, next_hop);
	sealed.block.flags = own ? BLOCK_OWN : 0;
	return send_through_primary(skb, conf, port, &load, &sealed, why);
}
