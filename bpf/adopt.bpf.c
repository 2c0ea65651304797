// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * adopt: TC ingress on an auxiliary's data interfaces, and its guard. Work comes only from the primary: a SYN or a first
 * datagram must carry a handoff block that verifies, whose decision becomes a conntrack entry before netfilter sees the
 * packet; any other packet must belong to an entry: by its tuple, by the tuple an ICMP error is about, or as a piece of a
 * packet whose first piece does. The rest is dropped and counted.
 * A session of this node's own that the primary refuses loses its entry. Pulses of the primary are answered.
 * Reads config, ports, expecting; writes pulses; tells refused blocks through events.
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
#define AA_ADOPTED_TIMEOUT_MS 120000 /* until the packet itself sets conntrack's own timeout, a moment later */
#endif

#define VRRP_PROTOCOL 112
#define VRRP_GROUP be32(0xe0000012) /* 224.0.0.18 */

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
	if (block->family != sealed->original.family || block->protocol != sealed->original.protocol ||
	    block->helper > HELPER_LAST || block->reserved ||
	    (block->family == 4 && (!is_mapped_ipv4(block->source) || !is_mapped_ipv4(block->destination))))
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

/* The tuple of the answers that the block's session will get: what its packets become, read backwards. */
static __always_inline void answers_of(struct tuple *answers, const struct handoff_block *block)
{
	__builtin_memcpy(answers->saddr, block->destination, 16);
	__builtin_memcpy(answers->daddr, block->source, 16);
	answers->sport = block->destination_port;
	answers->dport = block->source_port;
	answers->protocol = block->protocol;
	answers->family = block->family;
	answers->zero = 0;
}

/* Is the entry the very one the block describes, and still of use? */
static __always_inline bool describes(const struct tuple *answers, struct nf_conn *ct)
{
	struct tuple reply;

	ct_tuple(ct, AA_CT_REPLY, answers, &reply);
	return same_tuple(&reply, answers) &&
	       (answers->protocol == IPPROTO_UDP || ct_field(ct, __u8, AA_CT_TCP_STATE) < CT_TCP_TIME_WAIT);
}

/* 1: the entry is there already. 0: there is none (now): conntrack would replace one that ended or differs by a
 * decision of its own. What the primary says of a tuple is so. */
static __always_inline int present(struct __sk_buff *skb, const struct tuple *original, const struct tuple *answers)
{
	struct ct_question question;
	struct nf_conn *ct;

	ct_question_init(&question, original);
	ct = ct_ask(skb, &question);
	if (!ct)
		return 0;
	if (describes(answers, ct)) {
		ct_release(ct);
		return 1;
	}
	ct_expire(skb, &question, ct);
	return 0;
}

/* 1: an entry had the tuple that this session's answers come with, and is gone. The primary gives none away twice: it is
 * of a session that has ended there, or that never reached it. */
static __always_inline int make_room(struct __sk_buff *skb, const struct tuple *answers)
{
	struct ct_question question;
	struct nf_conn *ct;

	ct_question_init(&question, answers);
	ct = ct_ask(skb, &question);
	if (!ct)
		return 0;
	ct_expire(skb, &question, ct);
	return 1;
}

static __always_inline int create(struct __sk_buff *skb, const struct sealed_block *sealed, const struct tuple *answers)
{
	struct nf_conn *ct = ct_make(skb, &sealed->original);

	if (!ct)
		return -1;
	ct_translate(ct, answers);
	ct_field(ct, __u32, AA_CT_MARK) = host32(sealed->block.connmark);
	ct_set_timeout(ct, AA_ADOPTED_TIMEOUT_MS);
	ct = ct_insert_entry(ct);
	if (!ct)
		return -1;
	ct_release(ct);
	return 0;
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
	struct nf_conn *ct = ct_find(skb, tuple);

	if (!ct)
		return false;
	ct_release(ct);
	return true;
}

static __always_inline int guard_connection(struct __sk_buff *skb, const struct tuple *tuple, enum reason passed)
{
	if (!has_entry(skb, tuple))
		return verdict(TC_ACT_SHOT, GUARD_NO_ENTRY);
	return verdict(TC_ACT_OK, passed);
}

#define ICMP_OFFSET_MASK 0x1ff /* more than headers take */
#define INNER_MOST (IPV4_LONGEST + 64) /* of the packet inside an error: IPv4 with options, IPv6 with extension headers */

/* `icmp`: where its header begins. A driver may have left what is behind it outside of the part we can read. */
static __always_inline int guard_icmp(struct __sk_buff *skb, __u32 icmp, __u8 protocol)
{
	__u32 enough;
	struct cursor cursor;
	struct tuple about;
	int kind;

	icmp &= ICMP_OFFSET_MASK;
	enough = icmp + sizeof(struct icmp_header) + INNER_MOST;
	if (bpf_skb_pull_data(skb, enough < skb->len ? enough : skb->len))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	cursor.at = (void *)(long)skb->data + icmp;
	cursor.end = (void *)(long)skb->data_end;
	kind = protocol == IPPROTO_ICMP ? parse_icmp_error(&cursor, &about) : parse_icmpv6_error(&cursor, &about);
	if (kind > 0)
		return verdict(TC_ACT_SHOT, GUARD_NOT_TCP);
	if (kind < 0 || !has_entry(skb, &about))
		return verdict(TC_ACT_SHOT, GUARD_ICMP_NO_ENTRY);
	return verdict(TC_ACT_OK, GUARD_ICMP);
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

static __always_inline void note_adopted_control(const struct sealed_block *sealed)
{
	struct tuple translated;

	translated = sealed->original;
	translated.sport = sealed->block.source_port;
	translated.dport = sealed->block.destination_port;
	__builtin_memcpy(translated.saddr, sealed->block.source, 16);
	__builtin_memcpy(translated.daddr, sealed->block.destination, 16);
	note_control(&sealed->original, &translated);
}

static __always_inline int adopt_first(struct __sk_buff *skb, struct sealed_block *sealed, const struct load *load)
{
	enum reason done = ADOPT_AGAIN;
	struct tuple answers;

	answers_of(&answers, &sealed->block);
	if (!present(skb, &sealed->original, &answers)) {
		if (sealed->block.helper && skb->mark != DELIVERED_MARK)
			return give_to_agent(skb);
		done = ADOPT_NEW;
		if (sealed->block.helper)
			return verdict(TC_ACT_SHOT, ADOPT_CLASH);
		while (create(skb, sealed, &answers)) {
			if (done == ADOPT_EVICTED || !make_room(skb, &answers))
				return verdict(TC_ACT_SHOT, ADOPT_CLASH);
			done = ADOPT_EVICTED;
		}
	}
	if (sealed->block.helper)
		note_adopted_control(sealed);
	if (take_block_off(skb, load, &sealed->block))
		return verdict(TC_ACT_SHOT, ADOPT_FAILED);
	skb->mark = host32(sealed->block.mark);
	return verdict(TC_ACT_OK, done);
}

/* GUARD_NO_BLOCK when there is none; ADOPT_NEW when it is the primary's. */
static __always_inline enum reason read_block(struct __sk_buff *skb, const struct config *conf, const struct port *port,
					      const struct load *load, struct sealed_block *sealed)
{
	if (load->total_length < load->header_length + sizeof(sealed->block))
		return GUARD_NO_BLOCK;
	if (load_block(skb, load, &sealed->block))
		return GUARD_MALFORMED;
	return inspect(conf, port, sealed);
}

/* A SYN that was not handed off. */
static __always_inline int guard_unblocked(const struct config *conf, const struct tuple *original)
{
	if (is_expected_here(conf, original))
		return verdict(TC_ACT_OK, GUARD_EXPECTED);
	return verdict(TC_ACT_SHOT, GUARD_NO_BLOCK);
}

/* keepalived's advertisements (RFC 5798) are for every node; whether they count is decided by whoever reads them. */
static __always_inline bool is_vrrp(struct cursor cursor, int type)
{
	struct iphdr *ip;

	return type == be16(ETH_P_IP) && parse_ipv4(&cursor, &ip) == VRRP_PROTOCOL && ip->daddr == VRRP_GROUP;
}

/* Whole, or a piece: one that is not the first has no ports. */
enum piece { WHOLE, FIRST_PIECE, LATER_PIECE };

/* The protocol, or −1; `tuple` gets the addresses. */
static __always_inline int parse_network(struct cursor *cursor, int type, struct tuple *tuple, enum piece *piece)
{
	struct ipv6_fragment *fragment = 0;
	struct ipv6_header *ipv6;
	struct iphdr *ip;
	int protocol;

	if (type == be16(ETH_P_IP)) {
		protocol = parse_ipv4_options(cursor, &ip);
		if (protocol < 0)
			return -1;
		tuple_ipv4(tuple, ip);
		*piece = ip->frag_off & IPV4_OFFSET_BITS   ? LATER_PIECE :
			 ip->frag_off & IPV4_FRAGMENT_BITS ? FIRST_PIECE :
							     WHOLE;
		return protocol;
	}
	protocol = parse_ipv6(cursor, &ipv6);
	if (protocol < 0)
		return -1;
	protocol = parse_extensions(cursor, protocol, &fragment);
	if (protocol < 0)
		return -1;
	tuple_ipv6(tuple, ipv6);
	if (fragment)
		*piece = fragment->offset & IPV6_OFFSET_BITS ? LATER_PIECE : FIRST_PIECE;
	return protocol;
}

/* In a first piece without flags a SYN could hide, and end up here as a new connection without a block. */
static __always_inline int guard_first_piece(struct __sk_buff *skb, struct cursor *cursor, const struct tuple *tuple)
{
	struct tcphdr *tcp;

	if (tuple->protocol == IPPROTO_TCP) {
		if (parse_tcp(cursor, &tcp) < 0)
			return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
		if (opens(tcp))
			return verdict(TC_ACT_SHOT, GUARD_NO_BLOCK);
	}
	return guard_connection(skb, tuple, GUARD_FRAGMENT);
}

/*
 * The primary has sent it here, since there is a flow. But its first datagram, with the block, was lost, or the entry has gone
 * before the flow did: no other datagram of the session would ever get in. It goes back with a block that says so, the primary
 * ends the flow and takes the datagram for the first of a session (admit.bpf.c). Without room for the block only the headers
 * go back: of those only lengths are set right, nobody else reads them.
 */
static __always_inline int put_unknown(struct __sk_buff *skb, const struct load *load, struct handoff_block *block)
{
	__u16 total = load->header_length + sizeof(*block);
	__be16 ip_length = be16(load->family == 6 ? total - sizeof(struct ipv6_header) : total);
	__be16 length = be16(total + ETH_HLEN - load->transport);

	if (block->flags & BLOCK_WHOLE)
		return bpf_skb_change_tail(skb, ETH_HLEN + load->total_length + sizeof(*block), 0) ||
		       put_block(skb, load, block);
	return bpf_skb_change_tail(skb, ETH_HLEN + total, 0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + load->header_length, block, sizeof(*block), 0) ||
	       bpf_skb_store_bytes(skb, load->family == 6 ? IPV6_LENGTH_OFFSET : IPV4_LENGTH_OFFSET, &ip_length, 2, 0) ||
	       bpf_skb_store_bytes(skb, UDP_LENGTH_OFFSET(load->transport), &length, 2, 0);
}

static __always_inline int tell_unknown(struct __sk_buff *skb, const struct config *conf, const struct port *port,
					const struct load *load, struct sealed_block *sealed)
{
	struct handoff_block *block = &sealed->block;

	block_begin(block, conf, BLOCK_KIND_UNKNOWN, conf->self, port->slot, &sealed->original);
	block_carry(block, &sealed->original);
	if (load->total_length + sizeof(*block) <= port->mtu && skb->gso_segs <= 1)
		block->flags = BLOCK_WHOLE;
	block_seal(conf, sealed);
	if (put_unknown(skb, load, block) ||
	    write_whole_ethernet(skb, port->virtual_mac, port->physical_mac, be16(ETH_P_ANNOUNCE)))
		return verdict(TC_ACT_SHOT, GUARD_NO_ENTRY);
	count(GUARD_UNKNOWN);
	return bpf_redirect(port->ifindex, 0);
}

/* What is not the primary's block may be what the two say to each other. */
static __always_inline int guard_datagram(struct __sk_buff *skb, const struct config *conf, const struct port *port,
					  const struct load *load, struct sealed_block *sealed, enum reason why)
{
	if (has_entry(skb, &sealed->original))
		return verdict(TC_ACT_OK, GUARD_DATAGRAM);
	if (why != GUARD_NO_BLOCK)
		return verdict(TC_ACT_SHOT, why);
	return tell_unknown(skb, conf, port, load, sealed);
}

/* The network header is next. Frames with a tag are never handed off: the primary does that without. */
static __always_inline int take_ip(struct __sk_buff *skb, const struct config *conf, const struct port *port,
				   struct cursor *cursor, int type, bool tagged)
{
	struct cursor network = *cursor;
	enum piece piece = WHOLE;
	struct sealed_block sealed;
	struct port_pair *pair;
	struct load load = {};
	struct tcphdr *tcp;
	struct ethhdr *eth;
	enum reason why;
	int protocol;

	protocol = parse_network(cursor, type, &sealed.original, &piece);
	if (protocol < 0)
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	if (piece == WHOLE && protocol == (type == be16(ETH_P_IP) ? IPPROTO_ICMP : PROTOCOL_ICMPV6))
		return guard_icmp(skb, cursor->at - (void *)(long)skb->data, protocol);
	if (!is_shared_protocol(protocol))
		return verdict(TC_ACT_SHOT, GUARD_NOT_TCP);
	/* A later piece may overtake the first. It harms nobody alone: conntrack looks at whole packets only, and one whose
	 * first piece stays out is never whole. */
	if (piece == LATER_PIECE)
		return verdict(TC_ACT_OK, GUARD_FRAGMENT);
	if (parse_ports(cursor, &pair))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	tuple_transport(&sealed.original, protocol, pair);
	if (piece == FIRST_PIECE)
		return guard_first_piece(skb, cursor, &sealed.original);
	if (protocol == IPPROTO_TCP) {
		if (parse_tcp(cursor, &tcp) < 0)
			return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
		if (!opens(tcp))
			return guard_connection(skb, &sealed.original, GUARD_PASS);
	}
	if (tagged)
		return protocol == IPPROTO_TCP ? verdict(TC_ACT_SHOT, GUARD_NO_BLOCK) :
						 guard_connection(skb, &sealed.original, GUARD_DATAGRAM);
	if (parse_load(&network, &load, &sealed) || !is_whole(skb, &load))
		return verdict(TC_ACT_SHOT, GUARD_MALFORMED);
	why = read_block(skb, conf, port, &load, &sealed);
	if (why == ADOPT_NEW)
		return adopt_first(skb, &sealed, &load);
	if (protocol == IPPROTO_UDP)
		return guard_datagram(skb, conf, port, &load, &sealed, why);
	if (why == GUARD_NO_BLOCK)
		return guard_unblocked(conf, &sealed.original);
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) <= (void *)(long)skb->data_end)
		tell_refused(&sealed.original, eth, port->slot);
	return verdict(TC_ACT_SHOT, why);
}

int adopt(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	struct sealed_block sealed;
	struct ethhdr *eth;
	bool tagged;
	int type;

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
	if (type != be16(ETH_P_IP) && type != be16(ETH_P_IPV6))
		return verdict(TC_ACT_SHOT, type < 0 ? GUARD_MALFORMED : GUARD_NOT_IPV4);
	return take_ip(skb, conf, port, &cursor, type, tagged);
}
