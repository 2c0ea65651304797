// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * handoff: TC egress on the primary's data interfaces. A forwarded SYN or first datagram has been through the whole
 * ruleset: its conntrack entry holds every decision. The policy says whether the session is shared, persistence or the
 * schedule with whom; the flow is recorded under both tuples; an auxiliary's packet gets its original headers back, the
 * handoff block appended, and leaves by the interface it came in on.
 * Where helpers are shared, what a helper of this node expects is not expected on another any more.
 * Writes records, buckets, accounts, tallies, turns, rule_hits, bindings, controls and expected; reads config, ports, nodes,
 * draining and both banks.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "assign.h"
#include "carry.h"
#include "conntrack.h"
#include "emit.h"
#include "expectation.h"
#include "keep.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"

/* In skb->cb[0] between the redirect and our second sight of the same packet on its ingress interface. */
#define ON_ITS_WAY 0x41415357

/* More than the stack has room for. A program is never interrupted by itself on one CPU. */
struct handing {
	struct sealed_block sealed;
	struct decision decision;
	struct load load; /* in a map the verifier knows no values: what follows is looked at once for all kinds of packets */
	struct tuple leaving; /* the packet's, behind POSTROUTING */
	struct tuple answers; /* … read backwards */
};
BPF_TABLE("percpu_array", __u32, struct handing, handings, 1);

/* 0: the packet's direction is the original one. */
static __always_inline int read_decision(struct __sk_buff *skb, const struct tuple *answers, struct decision *decision)
{
	struct ct_question question;
	struct nf_conn *ct;

	/* After POSTROUTING the packet carries the reply tuple, inverted. Looked up as it stands it may hit another
	 * connection's original tuple (hairpin, no NAT), so ask for the reply. */
	ct_question_init(&question, answers);
	ct = ct_ask(skb, &question);
	if (!ct)
		return -1;
	ct_tuple(ct, AA_CT_ORIGINAL, answers, &decision->original);
	ct_tuple(ct, AA_CT_REPLY, answers, &decision->reply);
	decision->connmark = ct_field(ct, __u32, AA_CT_MARK);
	decision->status = ct_field(ct, __u32, AA_CT_STATUS);
	decision->under_way = ct_under_way(ct, answers->protocol);
	decision->helper = ct_helper(ct);
	ct_release(ct);
	return question.options.direction == FLOW_REPLY ? 0 : -1;
}

/* Hop limit or TTL: forwarding took one; the auxiliary takes it again. */
static __always_inline int restore_hops(struct __sk_buff *skb, const struct load *now)
{
	__be16 old = be16((__u16)(now->hops << 8 | now->protocol));
	__be16 new = be16((__u16)((now->hops + 1) << 8 | now->protocol));
	__u8 hops = now->hops + 1;

	if (now->family == 6)
		return bpf_skb_store_bytes(skb, ETH_HLEN + (int)__builtin_offsetof(struct ipv6_header, hops), &hops, 1, 0);
	return bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old, new, 2) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + (int)__builtin_offsetof(struct iphdr, ttl), &hops, 1, 0);
}

static __always_inline int restore_addresses(struct __sk_buff *skb, const struct load *now, const struct tuple *original,
					     __u32 difference)
{
	__be32 both[2] = {unmap_ipv4(original->saddr), unmap_ipv4(original->daddr)};

	if (now->family == 6)
		return bpf_skb_store_bytes(skb, ETH_HLEN + (int)__builtin_offsetof(struct ipv6_header, saddr),
					   (void *)original->saddr, 32, 0);
	return bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, 0, difference, 0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + (int)__builtin_offsetof(struct iphdr, saddr), both, sizeof(both), 0);
}

/* As the packet came in; its tuple now is `leaving`. What two v4-mapped addresses differ by, the IPv4 ones do. */
static __always_inline int restore_headers(struct __sk_buff *skb, const struct load *now, const struct tuple *leaving,
					   const struct tuple *original)
{
	__u32 difference = bpf_csum_diff((__be32 *)leaving->saddr, 32, (__be32 *)original->saddr, 32, 0);
	__be32 both_ports = (__u32)original->sport | (__u32)original->dport << 16;
	__u64 flags = checksum_flags(now);
	int check = checksum_offset(now);

	return restore_hops(skb, now) || restore_addresses(skb, now, original, difference) ||
	       bpf_l4_csum_replace(skb, check, 0, difference, flags | BPF_F_PSEUDO_HDR) ||
	       bpf_l4_csum_replace(skb, check, leaving->sport, original->sport, flags | 2) ||
	       bpf_l4_csum_replace(skb, check, leaving->dport, original->dport, flags | 2) ||
	       bpf_skb_store_bytes(skb, now->transport, &both_ports, 4, 0);
}

static __always_inline void fill_block(struct sealed_block *sealed, const struct config *conf,
				       const struct decision *decision, __u8 owner, __u8 slot, __u32 mark)
{
	struct handoff_block *block = &sealed->block;

	sealed->original = decision->original;
	block_begin(block, conf, BLOCK_KIND_SYN, owner, slot, &decision->original);
	block_carry_inverted(block, &decision->reply); /* which is the translated one */
	block->helper = decision->helper;
	block->connmark = be32(decision->connmark);
	block->mark = be32(mark);
	block->status = be32(decision->status);
	block_seal(conf, sealed);
}

static __always_inline bool shares_helper(const struct config *conf, const struct decision *decision)
{
	return (conf->features & AA_FEATURE_SHARE_HELPERS) && decision->helper != HELPER_NOT_SHARED;
}

/*
 * Record route, timestamp and both source routes (RFC 791, 3.1) are written by every router on the way: as they came in
 * they are not to be had any more. So are options of impossible length.
 */
static __always_inline bool forwarding_wrote(const struct iphdr *ip, const void *end)
{
	const __u8 *option = (const __u8 *)(ip + 1);
	__u32 length = ipv4_length(ip) - sizeof(*ip), left = 0, i;

#pragma unroll
	for (i = 0; i < IPV4_LONGEST - sizeof(*ip); i++) {
		if (i >= length)
			return left != 0;
		if ((const void *)(option + i + 2) > end)
			return true;
		if (left) {
			left--;
			continue;
		}
		if (option[i] == IPV4_OPTION_END)
			return false;
		if (option[i] == IPV4_OPTION_NOP)
			continue;
		if (option[i] == IPV4_OPTION_RECORD || option[i] == IPV4_OPTION_TIME || option[i] == IPV4_OPTION_LOOSE ||
		    option[i] == IPV4_OPTION_STRICT || option[i + 1] < 2)
			return true;
		left = option[i + 1] - 1;
	}
	return left != 0;
}

static __always_inline bool forwarding_wrote_options(const struct load *now, void *network, const void *end)
{
	struct iphdr *ip = network;

	if (now->family != 4 || (void *)(ip + 1) > end)
		return false;
	return ip->ihl != 5 && forwarding_wrote(ip, end);
}

/* What a helper of this node expects, no other node's does any more: the one that says so last is right. */
static __always_inline void overrule(struct __sk_buff *skb, const struct tuple *leaving)
{
	struct tuple coming;

	if (is_control(leaving) && read_expectation(skb, leaving, &coming) == 0)
		expect_no_more(&coming);
}

/* May this packet begin a session? Nothing else of TCP is of interest here; each datagram is, until its flow is known. */
static __always_inline bool may_begin(const struct load *now)
{
	return now->protocol == IPPROTO_UDP || opening(now->flags);
}

/*
 * A datagram of a flow that this node owns leaves as it is, whatever its size. (One of another node's carries the block
 * again, as a repeated SYN does, until `steer` knows the flow.) The whole decision is compared: a flow outlives its
 * conntrack entry by as long as the sweep does not look, and netfilter may give its port to another session meanwhile.
 */
static __always_inline bool is_own(const struct config *conf, const struct decision *decision)
{
	struct record *record;
	struct found found = {};

	if (!find(conf, decision->hash, &found))
		return false;
	record = record_of(found.word);
	return record && is_exactly(found.word, record, &decision->original) && goes_on(record, decision) &&
	       node_of(entry_owner(found.word))->hop == HOP_LOCAL;
}

/* HANDOFF_SENT: the packet can carry a block. */
static __always_inline enum reason fitness(struct __sk_buff *skb, const struct load *now, const struct port *port,
					   const struct decision *decision)
{
	__u32 room = now->total_length + sizeof(struct handoff_block);

	if (room > port->mtu || skb->gso_segs > 1)
		return HANDOFF_NO_ROOM;
	if (decision->helper && room > AA_PUNT_FRAME - ETH_HLEN) /* no agent takes a longer one */
		return HANDOFF_NO_ROOM;
	return HANDOFF_SENT;
}

static __always_inline int hand_off(struct __sk_buff *skb, const struct config *conf, const struct port *port,
				    const struct load *now, struct handing *work, const struct assignment *assigned)
{
	const struct node *node = node_of(assigned->owner);
	const struct decision *decision = &work->decision;
	struct sealed_block *sealed = &work->sealed;

	fill_block(sealed, conf, decision, assigned->owner, port->slot, skb->mark);
	/* no memory: only what has just begun can still stay */
	if (bpf_skb_change_tail(skb, ETH_HLEN + now->total_length + sizeof(sealed->block), 0))
		return assigned->why == HANDOFF_SENT ? stay(conf, decision, HANDOFF_NO_ROOM) :
						       verdict(TC_ACT_OK, HANDOFF_NO_ROOM);
	if (restore_headers(skb, now, &work->leaving, &decision->original) || put_block(skb, now, &sealed->block) ||
	    write_ethernet(skb, mac_of(node, port->slot), port->virtual_mac))
		return verdict(TC_ACT_SHOT, HANDOFF_FAILED);
	skb->cb[0] = ON_ITS_WAY;
	count(assigned->why);
	return bpf_redirect(port->ifindex, 0);
}

int handoff(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct decision *decision;
	const struct config *conf;
	const struct node *node;
	const struct port *port;
	struct handing *work;
	struct load *now;
	struct ethhdr *eth;
	struct assignment assigned;
	enum reason unfit = HANDOFF_SENT;
	struct request request;
	__u32 zero = 0;
	int type;

	type = parse_ethernet(&cursor, &eth);
	if ((type != be16(ETH_P_IP) && type != be16(ETH_P_IPV6)) || eth->h_dest[0] & 1) /* to a group: nobody's session */
		return verdict(TC_ACT_OK, HANDOFF_OTHER);
	work = handings.lookup(&zero);
	if (!work)
		return verdict(TC_ACT_OK, HANDOFF_NOT_READY);
	now = &work->load;
	__builtin_memset(now, 0, sizeof(*now));
	if (parse_load(&cursor, now, &work->sealed))
		return verdict(TC_ACT_OK, HANDOFF_OTHER);
	conf = configuration();
	if (!may_begin(now)) {
		if (conf && (conf->features & AA_FEATURE_SHARE_HELPERS) && now->total_length > now->header_length)
			overrule(skb, &work->sealed.original);
		return verdict(TC_ACT_OK, HANDOFF_OTHER);
	}
	if (skb->cb[0] == ON_ITS_WAY) {
		skb->cb[0] = 0;
		return verdict(TC_ACT_OK, HANDOFF_ON_ITS_WAY);
	}
	if (skb->ingress_ifindex == 0)
		return verdict(TC_ACT_OK, HANDOFF_OWN);
	port = port_of(skb->ingress_ifindex);
	if (!port)
		return verdict(TC_ACT_OK, HANDOFF_NOT_DATA);
	if (!conf || !conf->self)
		return verdict(TC_ACT_OK, HANDOFF_NOT_READY);
	if (!is_whole(skb, now) || now->hops == 255)
		return verdict(TC_ACT_OK, HANDOFF_UNSUPPORTED);
	if (skb->vlan_present) /* its answers come in tagged, and neighbours there are not relayed */
		unfit = HANDOFF_TAGGED;
	else if (now->extended || forwarding_wrote_options(now, eth + 1, cursor.end))
		unfit = HANDOFF_OPTIONS;

	decision = &work->decision;
	work->leaving = work->sealed.original;
	invert(&work->answers, &work->leaving);
	if (conf->heir && now->protocol == IPPROTO_TCP) /* as in `steer`, which this one had passed already */
		return verdict(TC_ACT_SHOT, HANDOFF_HANDING_OVER);
	if (read_decision(skb, &work->answers, &work->decision))
		return verdict(TC_ACT_OK, now->protocol == IPPROTO_UDP ? HANDOFF_OTHER : HANDOFF_NO_ENTRY);
	if (decision->status & IPS_NAT_CLASH) /* the next one has the session's entry */
		return verdict(TC_ACT_OK, HANDOFF_RACED);
	work->decision.hash = hash_tuple(conf, &decision->original);
	if (now->protocol == IPPROTO_UDP && is_own(conf, decision))
		return verdict(TC_ACT_OK, HANDOFF_LOCAL);
	if (decision->helper && (conf->features & AA_FEATURE_SHARE_HELPERS))
		note_control(&decision->original, &work->leaving);
	if (decision->helper && !shares_helper(conf, decision))
		return verdict(TC_ACT_OK, HANDOFF_HELPER);
	if (decision->status & IPS_EXPECTED)
		return keep(skb, conf, decision, HANDOFF_EXPECTED);
	if (unfit == HANDOFF_SENT)
		unfit = fitness(skb, now, port, decision);
	if (unfit != HANDOFF_SENT)
		return keep(skb, conf, decision, unfit);

	request.connmark = decision->connmark;
	request.mark = skb->mark;
	request.octets = now->total_length;
	request.slot = port->slot;
	assigned = assign(conf, decision, &request);
	emit_if_due(skb, conf);
	if (!assigned.owner)
		return verdict(assigned.why == HANDOFF_HANDING_OVER ? TC_ACT_SHOT : TC_ACT_OK, assigned.why);
	node = node_of(assigned.owner);
	if (!node || node->hop == HOP_NONE)
		return stay(conf, decision, HANDOFF_NO_OWNER);
	if (node->hop == HOP_LOCAL)
		return verdict(TC_ACT_OK, assigned.why == HANDOFF_UNDER_WAY ? HANDOFF_UNDER_WAY : HANDOFF_LOCAL);
	if (assigned.running)
		hold_again(skb, conf, &decision->original);
	return hand_off(skb, conf, port, now, work, &assigned);
}

/*
 * In front of `handoff` on a primary that was cut off from all its networks: another node may have become primary
 * meanwhile, so nothing leaves before it has asked (docs/promotion.md).
 */
int mute(struct __sk_buff *skb)
{
	return verdict(skb ? TC_ACT_SHOT : TC_ACT_OK, MUTED);
}
