/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An announcement that the primary refuses comes back to its auxiliary: the tuple is another session's. The node gives its
 * own session another port, as netfilter does where a session of its own node has the one it wanted: in a new conntrack
 * entry. A datagram goes out again with it at once; a SYN is TCP's to repeat, since conntrack must see it leave.
 */
#ifndef AA_TAKE_BACK_H
#define AA_TAKE_BACK_H

#include "carry.h"
#include "conntrack.h"
#include "maps.h"

#define FIRST_PORT 1024
#define TRIES 16 /* of ports, for one datagram */

static __always_inline enum reason inspect_refused(const struct config *conf, const struct sealed_block *sealed)
{
	const struct handoff_block *block = &sealed->block;
	__u64 tag, wanted;

	if (block->magic != BLOCK_MAGIC || block->version != BLOCK_VERSION_1 || block->kind != BLOCK_KIND_REFUSED)
		return BLOCK_VERSION;
	if (block->owner != conf->self || block->generation != be32(conf->generation))
		return BLOCK_NODE;
	__builtin_memcpy(&tag, block->tag, 8);
	wanted = block_tag(conf->key, sealed);
	return tag == wanted ? ADOPT_REFUSED : BLOCK_TAG;
}

/* The entry with the refused tuple goes, at once. */
static __always_inline void forget_entry(struct __sk_buff *skb, const struct tuple *leaving)
{
	struct ct_question question;
	struct nf_conn *ct;
	struct tuple inverse;

	invert(&inverse, leaving);
	ct_question_init(&question, &inverse);
	ct = ct_ask(skb, &question);
	if (ct)
		ct_expire(skb, &question, ct);
}

/* 0 when there is one for the same session, which leaves by that source port. */
static __always_inline int renew_entry(struct __sk_buff *skb, const struct config *conf, const struct sealed_block *sealed,
				       __u16 source_port)
{
	const struct tuple *leaving = &sealed->original;
	struct tuple original = *leaving, reply;
	struct nf_conn *ct;

	__builtin_memcpy(original.saddr, sealed->block.source, 16);
	__builtin_memcpy(original.daddr, sealed->block.destination, 16);
	original.sport = sealed->block.source_port;
	original.dport = sealed->block.destination_port;
	ct = ct_make(skb, &original);
	if (!ct)
		return -1;
	invert(&reply, leaving);
	reply.dport = be16(source_port);
	ct_translate(ct, &reply);
	ct_field(ct, __u32, AA_CT_MARK) = host32(sealed->block.connmark);
	ct_set_timeout(ct, conf->timeout_s[leaving->protocol == IPPROTO_UDP ? FLOW_DATAGRAMS : FLOW_SYN_SENT] * 1000);
	ct = ct_insert_entry(ct);
	if (!ct)
		return -1;
	ct_release(ct);
	return 0;
}

/* The datagram as announced before, but for its source port. */
static __always_inline int announce_again(struct __sk_buff *skb, const struct config *conf, const struct port *port,
					  const struct load *load, struct sealed_block *sealed, __u16 source_port)
{
	int block_at = ETH_HLEN + load->total_length - (int)sizeof(sealed->block);
	bool odd = load->total_length & 1;
	__be16 old = sealed->original.sport, now = be16(source_port);
	__u32 before = block_sum(&sealed->block, false, odd), after;

	sealed->original.sport = now;
	sealed->block.kind = BLOCK_KIND_FLOW;
	sealed->block.tries++;
	block_seal(conf, sealed);
	after = block_sum(&sealed->block, true, odd);
	if (bpf_skb_store_bytes(skb, block_at, &sealed->block, sizeof(sealed->block), 0) ||
	    bpf_skb_store_bytes(skb, load->transport, &now, 2, 0) ||
	    bpf_l4_csum_replace(skb, checksum_offset(load), old, now, checksum_flags(load) | 2) ||
	    add_sum(skb, load, before) || add_sum(skb, load, after) ||
	    write_whole_ethernet(skb, port->virtual_mac, port->physical_mac, be16(ETH_P_ANNOUNCE)))
		return verdict(TC_ACT_SHOT, ADOPT_FAILED);
	count(ADOPT_ANOTHER_PORT);
	return bpf_redirect(port->ifindex, 0);
}

static __always_inline int take_back(struct __sk_buff *skb, const struct config *conf, const struct port *port,
				     struct sealed_block *sealed)
{
	__u16 source_port = FIRST_PORT + bpf_get_prandom_u32() % (65536 - FIRST_PORT);
	struct cursor cursor;
	struct load load = {};
	struct ethhdr *eth;
	enum reason why;

	if (bpf_skb_pull_data(skb, skb->len < HEADERS_MOST ? skb->len : HEADERS_MOST))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	cursor.at = (void *)(long)skb->data;
	cursor.end = (void *)(long)skb->data_end;
	if (parse_ethernet(&cursor, &eth) < 0 || parse_load(&cursor, &load, sealed) ||
	    !is_whole(skb, &load) || load.total_length < load.header_length + sizeof(sealed->block) ||
	    load_block(skb, &load, &sealed->block))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	why = inspect_refused(conf, sealed);
	if (why != ADOPT_REFUSED)
		return verdict(TC_ACT_SHOT, why);
	forget_entry(skb, &sealed->original);
	if (!(sealed->block.flags & BLOCK_OWN) || sealed->block.tries >= TRIES ||
	    renew_entry(skb, conf, sealed, source_port) || load.protocol != IPPROTO_UDP)
		return verdict(TC_ACT_SHOT, ADOPT_REFUSED);
	return announce_again(skb, conf, port, &load, sealed, source_port);
}

#endif
