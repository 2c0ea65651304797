// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * adopt: TC ingress on an auxiliary's data interfaces, and its guard. Work comes only from the primary: a SYN must carry
 * a handoff block that verifies, whose decision becomes a conntrack entry before netfilter sees the packet; any other
 * packet must belong to an entry: by its tuple, by the tuple an ICMP error is about, or as a piece of a packet
 * whose first piece does. The rest is dropped and counted.
 * A session of this node's own that the primary refuses loses its entry. Pulses of the primary are answered.
 * Reads config, ports, expected; writes pulses; tells refused blocks through events.
 */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include "arp.h"
#include "carry.h"
#include "conntrack.h"
#include "delivered.h"
#include "expectation.h"
#include "maps.h"
#include "ndp.h"
#include "parse.h"
#include "pulse.h"
#include "take_back.h"

#ifndef AA_ADOPTED_TIMEOUT_MS
#define AA_ADOPTED_TIMEOUT_MS 120000 /* until the SYN itself sets conntrack's own timeout, a moment later */
#endif

#define VRRP_PROTOCOL 112
#define VRRP_GROUP be32(0xe0000012) /* 224.0.0.18 */

/* What the frame said before anything was changed. */
struct arrival {
	__u16 total_length;
	__u16 tcp_length;
	__u16 tcp; /* where its header begins in the frame */
	bool odd; /* the payload without the block */
};

/* BLOCK_TAG last: it is the dearest check. ADOPT_NEW stands for "nothing wrong". */
static __always_inline enum reason inspect(const struct config *conf, const struct port *port,
					   const struct sealed_block *sealed)
{
	const struct handoff_block *block = &sealed->block;
	__u64 tag, wanted;

	if (block->magic != BLOCK_MAGIC)
		return GUARD_NO_BLOCK;
	if (block->version != BLOCK_VERSION_1 || block->length != be16(sizeof(*block)) || block->kind != BLOCK_KIND_SYN)
		return BLOCK_VERSION;
	if (block->cluster_id != be16(conf->cluster_id))
		return BLOCK_CLUSTER;
	if (block->generation != be32(conf->generation) || host32(block->epoch) < conf->epoch)
		return BLOCK_OLD;
	if (block->owner != conf->self || block->slot != port->slot)
		return BLOCK_NODE;
	if (block->family != 4 || block->protocol != IPPROTO_TCP || block->helper > HELPER_LAST || block->reserved ||
	    !is_mapped_ipv4(block->source) || !is_mapped_ipv4(block->destination))
		return BLOCK_MALFORMED;
	__builtin_memcpy(&tag, block->tag, 8);
	wanted = block_tag(conf->key, sealed);
	return tag == wanted ? ADOPT_NEW : BLOCK_TAG;
}

static __always_inline void tell_refused(const struct tuple *original, const struct ethhdr *eth, __u8 slot)
{
	struct event event = {.time_ns = bpf_ktime_get_ns(), .kind = EVENT_REFUSED_BLOCK, .slot = slot};

	__builtin_memcpy(event.address, original->saddr, 16);
	__builtin_memcpy(event.mac, eth->h_source, 6);
	events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP);
}

/* Is the entry the very one the block describes, and still of use? */
static __always_inline bool describes(const struct handoff_block *block, struct nf_conn *ct)
{
	return ct_field(ct, __be32, AA_CT_REPLY + AA_CT_SRC_ADDR) == unmap_ipv4(block->destination) &&
	       ct_field(ct, __be32, AA_CT_REPLY + AA_CT_DST_ADDR) == unmap_ipv4(block->source) &&
	       ct_field(ct, __be16, AA_CT_REPLY + AA_CT_SRC_PORT) == block->destination_port &&
	       ct_field(ct, __be16, AA_CT_REPLY + AA_CT_DST_PORT) == block->source_port &&
	       ct_field(ct, __u8, AA_CT_TCP_STATE) < CT_TCP_TIME_WAIT;
}

/* What the primary says of a tuple is so: what conntrack has there goes, and the next look-up removes it. */
static __always_inline void expire(struct __sk_buff *skb, struct bpf_sock_tuple *key, struct nf_conn *ct)
{
	struct ct_options options;

	ct_change_timeout(ct, 0);
	ct_release(ct);
	ct_options_init(&options);
	ct = skb_ct_lookup(skb, key, sizeof(key->ipv4), &options, CT_OPTS_SIZE);
	if (ct)
		ct_release(ct);
}

/* 1: the entry is there already. 0: there is none (now): conntrack would replace one that ended or differs by a
 * decision of its own. */
static __always_inline int present(struct __sk_buff *skb, struct bpf_sock_tuple *key, const struct handoff_block *block)
{
	struct ct_options options;
	struct nf_conn *ct;

	ct_options_init(&options);
	ct = skb_ct_lookup(skb, key, sizeof(key->ipv4), &options, CT_OPTS_SIZE);
	if (!ct)
		return 0;
	if (describes(block, ct)) {
		ct_release(ct);
		return 1;
	}
	expire(skb, key, ct);
	return 0;
}

/* 1: an entry had the tuple that this session's answers come with, and is gone. The primary gives none away twice: it is
 * of a session that has ended there, or that never reached it. */
static __always_inline int make_room(struct __sk_buff *skb, const struct handoff_block *block)
{
	struct bpf_sock_tuple key;
	struct ct_options options;
	struct tuple answers = {};
	struct nf_conn *ct;

	__builtin_memcpy(answers.saddr, block->destination, 16);
	__builtin_memcpy(answers.daddr, block->source, 16);
	answers.sport = block->destination_port;
	answers.dport = block->source_port;
	answers.protocol = block->protocol;
	answers.family = block->family;
	ct_question(&key, &options, &answers);
	ct = skb_ct_lookup(skb, &key, sizeof(key.ipv4), &options, CT_OPTS_SIZE);
	if (!ct)
		return 0;
	expire(skb, &key, ct);
	return 1;
}

static __always_inline int create(struct __sk_buff *skb, struct bpf_sock_tuple *key, const struct handoff_block *block)
{
	union ct_address source = {}, destination = {};
	struct ct_options options;
	struct nf_conn *ct;

	ct_options_init(&options);
	ct = skb_ct_alloc(skb, key, sizeof(key->ipv4), &options, CT_OPTS_SIZE);
	if (!ct)
		return -1;
	/* Both, also where nothing is translated: else the auxiliary's own NAT rules would decide. */
	source.word[0] = unmap_ipv4(block->source);
	destination.word[0] = unmap_ipv4(block->destination);
	ct_set_nat_info(ct, &destination, host16(block->destination_port), CT_MANIP_DST);
	ct_set_nat_info(ct, &source, host16(block->source_port), CT_MANIP_SRC);
	ct_field(ct, __u32, AA_CT_MARK) = host32(block->connmark);
	ct_set_timeout(ct, AA_ADOPTED_TIMEOUT_MS);
	ct = ct_insert_entry(ct);
	if (!ct)
		return -1;
	ct_release(ct);
	return 0;
}

static __always_inline int strip(struct __sk_buff *skb, const struct arrival *arrival, struct handoff_block *block)
{
	__u16 total = arrival->total_length - sizeof(*block), length = arrival->tcp_length - sizeof(*block);

	if (fix_lengths(skb, arrival->tcp, be16(arrival->total_length), be16(total), be16(arrival->tcp_length), be16(length),
			block_sum(block, false, arrival->odd)))
		return -1;
	return bpf_skb_change_tail(skb, ETH_HLEN + total, 0);
}

static __always_inline int guard_arp(struct __sk_buff *skb, struct cursor *cursor)
{
	struct arp_ipv4 *arp;
	int operation = parse_arp(cursor, &arp);

	if (operation == ARP_REPLY && skb->mark == ARP_ACCEPTED_MARK) {
		skb->mark = 0;
		return verdict(TC_ACT_OK, ARP_TAKEN);
	}
	if (operation == ARP_RELAY_REQUEST || operation == ARP_RELAY_REPLY)
		return verdict(TC_ACT_SHOT, ARP_ON_DATA);
	return verdict(TC_ACT_SHOT, GUARD_ARP);
}

static __always_inline bool has_entry(struct __sk_buff *skb, const struct tuple *tuple)
{
	struct bpf_sock_tuple key;
	struct ct_options options;
	struct nf_conn *ct;

	ct_question(&key, &options, tuple);
	ct = skb_ct_lookup(skb, &key, sizeof(key.ipv4), &options, CT_OPTS_SIZE);
	if (!ct)
		return false;
	ct_release(ct);
	return true;
}

static __always_inline int guard_connection(struct __sk_buff *skb, const struct tuple *tuple)
{
	if (!has_entry(skb, tuple))
		return verdict(TC_ACT_SHOT, GUARD_NO_ENTRY);
	return verdict(TC_ACT_OK, GUARD_PASS);
}

/* `icmp`: where its header begins. A driver may have left what is behind it outside of the part we can read. */
static __always_inline int guard_icmp(struct __sk_buff *skb, __u32 icmp)
{
	__u32 enough = icmp + sizeof(struct icmp_header) + IPV4_LONGEST + sizeof(struct port_pair);
	struct cursor cursor;
	struct tuple about;
	int kind;

	if (bpf_skb_pull_data(skb, enough < skb->len ? enough : skb->len))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	cursor.at = (void *)(long)skb->data + icmp;
	cursor.end = (void *)(long)skb->data_end;
	kind = parse_icmp_error(&cursor, &about);
	if (kind > 0)
		return verdict(TC_ACT_SHOT, GUARD_NOT_TCP);
	if (kind < 0 || !has_entry(skb, &about))
		return verdict(TC_ACT_SHOT, GUARD_ICMP_NO_ENTRY);
	return verdict(TC_ACT_OK, GUARD_ICMP);
}

/* In a first piece without flags a SYN could hide, and end up here as a new connection without a block. */
static __always_inline int guard_first_fragment(struct __sk_buff *skb, const struct iphdr *ip, struct cursor *cursor)
{
	struct tcphdr *tcp;
	struct tuple tuple;

	if (parse_tcp(cursor, &tcp) < 0)
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	if (opens(tcp))
		return verdict(TC_ACT_SHOT, GUARD_NO_BLOCK);
	tuple_from_packet(&tuple, ip, tcp);
	if (!has_entry(skb, &tuple))
		return verdict(TC_ACT_SHOT, GUARD_NO_ENTRY);
	return verdict(TC_ACT_OK, GUARD_FRAGMENT);
}

/* Of a session that began here: none other is let in. */
static __always_inline int guard_datagram(struct __sk_buff *skb, const struct iphdr *ip, struct cursor *cursor)
{
	struct port_pair *pair;
	struct tuple tuple;

	if ((ip->frag_off & IPV4_FRAGMENT_BITS) || parse_ports(cursor, &pair))
		return verdict(TC_ACT_SHOT, GUARD_NOT_TCP);
	map_ipv4(tuple.saddr, ip->saddr);
	map_ipv4(tuple.daddr, ip->daddr);
	tuple.sport = pair->source;
	tuple.dport = pair->destination;
	tuple.protocol = IPPROTO_UDP;
	tuple.family = 4;
	tuple.zero = 0;
	if (!has_entry(skb, &tuple))
		return verdict(TC_ACT_SHOT, GUARD_NOT_TCP);
	return verdict(TC_ACT_OK, GUARD_DATAGRAM);
}

/* Packets of the session as they leave this node, by both its tuples: `announce` looks what the helper made of them. */
static __always_inline void note_control(const struct sealed_block *sealed)
{
	struct tuple leaving;
	__u64 now = bpf_ktime_get_coarse_ns();

	invert(&leaving, &sealed->original);
	controls.update(&leaving, &now);
	leaving.sport = sealed->block.source_port;
	leaving.dport = sealed->block.destination_port;
	__builtin_memcpy(leaving.saddr, sealed->block.source, 16);
	__builtin_memcpy(leaving.daddr, sealed->block.destination, 16);
	controls.update(&leaving, &now);
}

/* To the agent, which makes the entry and gives the frame back as it is. */
static __always_inline int give_to_agent(struct __sk_buff *skb)
{
	__u32 length = skb->len;
	struct punt *punt;

	if (length == 0 || length > AA_PUNT_FRAME)
		return verdict(TC_ACT_SHOT, ADOPT_NO_AGENT);
	punt = punts.ringbuf_reserve(sizeof(*punt));
	if (!punt)
		return verdict(TC_ACT_SHOT, ADOPT_NO_AGENT);
	punt->ifindex = skb->ifindex;
	punt->length = length;
	/* calculated so that the verifier sees the bounds */
	if (bpf_skb_load_bytes(skb, 0, punt->frame, ((length - 1) & (AA_PUNT_FRAME - 1)) + 1)) {
		punts.ringbuf_discard(punt, 0);
		return verdict(TC_ACT_SHOT, ADOPT_NO_AGENT);
	}
	punts.ringbuf_submit(punt, 0);
	return verdict(TC_ACT_SHOT, ADOPT_BY_AGENT);
}

static __always_inline int adopt_syn(struct __sk_buff *skb, struct sealed_block *sealed, const struct arrival *arrival)
{
	struct bpf_sock_tuple key;
	enum reason done = ADOPT_AGAIN;

	ct_key(&key, &sealed->original);
	if (!present(skb, &key, &sealed->block)) {
		if (sealed->block.helper && skb->mark != DELIVERED_MARK)
			return give_to_agent(skb);
		done = ADOPT_NEW;
		if (sealed->block.helper)
			return verdict(TC_ACT_SHOT, ADOPT_CLASH);
		while (create(skb, &key, &sealed->block)) {
			if (done == ADOPT_EVICTED || !make_room(skb, &sealed->block))
				return verdict(TC_ACT_SHOT, ADOPT_CLASH);
			done = ADOPT_EVICTED;
		}
	}
	if (sealed->block.helper)
		note_control(sealed);
	if (strip(skb, arrival, &sealed->block))
		return verdict(TC_ACT_SHOT, ADOPT_FAILED);
	skb->mark = host32(sealed->block.mark);
	return verdict(TC_ACT_OK, done);
}

/* A SYN that was not handed off. */
static __always_inline int guard_unblocked(const struct config *conf, const struct tuple *original)
{
	if (is_expected(conf, original))
		return verdict(TC_ACT_OK, GUARD_EXPECTED);
	return verdict(TC_ACT_SHOT, GUARD_NO_BLOCK);
}

/* keepalived's advertisements (RFC 5798) are for every node; whether they count is decided by whoever reads them. */
static __always_inline bool is_vrrp(struct cursor cursor, int type)
{
	struct iphdr *ip;

	return type == be16(ETH_P_IP) && parse_ipv4(&cursor, &ip) == VRRP_PROTOCOL && ip->daddr == VRRP_GROUP;
}

int adopt(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	struct sealed_block sealed;
	struct arrival arrival = {};
	enum reason why;
	struct ethhdr *eth;
	struct tcphdr *tcp;
	struct iphdr *ip;
	int type, headers;
	bool tagged;

	type = parse_ethernet(&cursor, &eth);
	if (type < 0)
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	if (type == be16(ETH_P_ARP))
		return guard_arp(skb, &cursor);
	if (type == be16(ETH_P_IPV6)) {
		int ndp = guard_ndp(skb, &cursor);

		if (ndp != NDP_NONE)
			return ndp;
	}
	if (!conf || !port)
		return verdict(TC_ACT_SHOT, GUARD_NOT_READY);
	if (!same_mac(eth->h_dest, port->physical_mac))
		return is_vrrp(cursor, type) ? verdict(TC_ACT_OK, GUARD_VRRP) : verdict(TC_ACT_SHOT, GUARD_NOT_MINE);
	if (!same_mac(eth->h_source, port->virtual_mac))
		return verdict(TC_ACT_SHOT, GUARD_STRANGER);
	if (skb->pkt_type == PACKET_OTHERHOST) /* it was the primary until now, and still has that MAC */
		bpf_skb_change_type(skb, PACKET_HOST);
	if (type == be16(ETH_P_ANNOUNCE))
		return take_back(skb, conf, port, &sealed);
	if (type == be16(ETH_P_HL))
		return take_pulse(skb, conf, port->slot, port->virtual_mac, port->physical_mac);
	tagged = is_tag(type); /* the second tag: the kernel has taken the outer one off the frame */
	if (tagged)
		type = parse_tag(&cursor);
	if (type != be16(ETH_P_IP))
		return verdict(TC_ACT_SHOT, type < 0 ? GUARD_MALFORMED : GUARD_NOT_IPV4);
	type = parse_ipv4_options(&cursor, &ip);
	if (type < 0)
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	arrival.tcp = ETH_HLEN + ipv4_length(ip);
	if (type == IPPROTO_ICMP && !(ip->frag_off & IPV4_FRAGMENT_BITS))
		return guard_icmp(skb, arrival.tcp + (tagged ? sizeof(struct vlan_tag) : 0));
	if (type == IPPROTO_UDP)
		return guard_datagram(skb, ip, &cursor);
	if (type != IPPROTO_TCP)
		return verdict(TC_ACT_SHOT, GUARD_NOT_TCP);
	/* A later piece may overtake the first. It harms nobody alone: conntrack looks at whole packets only, and one whose
	 * first piece stays out is never whole. */
	if (ip->frag_off & IPV4_OFFSET_BITS)
		return verdict(TC_ACT_OK, GUARD_FRAGMENT);
	if (ip->frag_off & IPV4_FRAGMENT_BITS)
		return guard_first_fragment(skb, ip, &cursor);
	headers = parse_tcp(&cursor, &tcp);
	if (headers < 0)
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	tuple_from_packet(&sealed.original, ip, tcp);
	if (!opens(tcp))
		return guard_connection(skb, &sealed.original);
	if (tagged) /* the primary hands off without tags */
		return verdict(TC_ACT_SHOT, GUARD_NO_BLOCK);

	sealed.sequence = tcp->seq;
	sealed.zero = 0;
	headers += ipv4_length(ip);
	arrival.total_length = host16(ip->tot_len);
	arrival.tcp_length = arrival.total_length - ipv4_length(ip);
	arrival.odd = arrival.total_length & 1;
	if (arrival.total_length < headers || ETH_HLEN + arrival.total_length > skb->len)
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	if (arrival.total_length < headers + sizeof(sealed.block))
		return guard_unblocked(conf, &sealed.original);
	if (bpf_skb_load_bytes(skb, ETH_HLEN + arrival.total_length - sizeof(sealed.block), &sealed.block,
			       sizeof(sealed.block)))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	why = inspect(conf, port, &sealed);
	if (why == GUARD_NO_BLOCK && is_expected(conf, &sealed.original))
		return verdict(TC_ACT_OK, GUARD_EXPECTED);
	if (why != ADOPT_NEW) {
		tell_refused(&sealed.original, eth, port->slot);
		return verdict(TC_ACT_SHOT, why);
	}
	return adopt_syn(skb, &sealed, &arrival);
}
