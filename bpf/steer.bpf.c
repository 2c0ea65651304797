// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * steer: XDP on the primary's data interfaces. A packet of a known flow goes to its owner by MAC rewrite, out of the
 * interface it came in on; so does an ICMP error about one, and each piece of a fragmented packet. Everything else goes to
 * the primary's own stack, which has an entry for every connection (docs/steering.md has the table of verdicts).
 * Reads buckets, nodes, ports, config; records only for the packets that begin or end a flow, which it follows. Writes
 * accounts, where accounting is on.
 */
#define AA_SEARCH_PER_PACKET
#include <linux/bpf.h>

#include "account.h"
#include "conntrack.h"
#include "expectation.h"
#include "flow_state.h"
#include "fragment.h"
#include "maps.h"
#include "parse.h"

/* The primary's entry holds the NAT port and sees no packet after the SYN: it must live as long as the session. */
static __always_inline void hold_entry(struct xdp_md *ctx, const struct tuple *original, __u32 timeout_s, bool assure)
{
	struct bpf_sock_tuple key;
	struct ct_options options;
	struct nf_conn *ct;

	ct_key(&key, original);
	ct_options_init(&options);
	ct = xdp_ct_lookup(ctx, &key, sizeof(key.ipv4), &options, CT_OPTS_SIZE);
	if (ct)
		ct_hold(ct, timeout_s, assure);
}

/* Called until the handshake is complete, and for flags that end a flow. */
static __always_inline void follow(struct xdp_md *ctx, const struct config *conf, __u64 word, struct record *record,
				   __u8 flags)
{
	const struct node *owner = node_of(entry_owner(word));
	__u8 state = advance(record, entry_record(word), word & ENTRY_REPLY, flags);

	if (!state)
		return;
	if (state == FLOW_ESTABLISHED)
		change_flow(record, entry_record(word), 0, ENTRY_SETTLED);
	if (owner && owner->hop == HOP_LOCAL)
		return; /* the stack sees these packets itself */
	record->held_ns = bpf_ktime_get_coarse_ns();
	if (state == FLOW_ESTABLISHED)
		hold_entry(ctx, &record->original, conf->timeout_s[FLOW_ESTABLISHED], true);
	else if (state == FLOW_CLOSED)
		hold_entry(ctx, &record->original, conf->timeout_s[FLOW_CLOSED], false);
}

/* Its record, or null when the entry is another session's, which from then on has every packet compared. */
static __always_inline struct record *own_record(const struct found *found, const struct tuple *tuple)
{
	struct record *record = record_of(found->word);

	if (record && is_exactly(found->word, record, tuple))
		return record;
	change_word(found->at, entry_record(found->word), 0, ENTRY_EXACT);
	return 0;
}

/* The packets that matter, with the whole tuple compared: false when they are another session's. */
static __always_inline bool examine(struct xdp_md *ctx, const struct config *conf, const struct found *found,
				    const struct iphdr *ip, const struct tcphdr *tcp)
{
	struct record *record;
	struct tuple tuple;

	tuple_from_packet(&tuple, ip, tcp);
	record = own_record(found, &tuple);
	if (!record)
		return false;
	if (!opens(tcp))
		follow(ctx, conf, found->word, record, tcp_flags(tcp));
	return true;
}

static __always_inline bool matters(__u64 word, __u8 flags)
{
	return flags & (TCP_SYN | TCP_FIN | TCP_RST) || (word & (ENTRY_SETTLED | ENTRY_EXACT)) != ENTRY_SETTLED;
}

/* Once between two looks of the sweep. Tried once: when another CPU changes the word meanwhile, the next packet will do. */
static __always_inline void touch(const struct found *found)
{
	__u64 word;

	if (found->word & ENTRY_TOUCHED)
		return;
	word = *(volatile __u64 *)found->at;
	if (entry_record(word) == entry_record(found->word))
		__sync_val_compare_and_swap(found->at, word, word | ENTRY_TOUCHED);
}

/* The virtual MAC as source: a client's MAC must never be learned on the primary's switch port. */
static __always_inline int send_on(struct ethhdr *eth, const struct port *port, const struct node *owner, enum reason why)
{
	copy_mac(eth->h_source, port->virtual_mac);
	copy_mac(eth->h_dest, mac_of(owner, port->slot));
	return verdict(XDP_TX, why);
}

/* To the node of that id, for reason `sent`; for reason `local` to this node's stack. */
static __always_inline int send_to(struct ethhdr *eth, const struct port *port, __u8 id, enum reason sent,
				   enum reason local)
{
	const struct node *owner = node_of(id);

	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);
	if (owner->hop == HOP_LOCAL)
		return verdict(XDP_PASS, local);
	return send_on(eth, port, owner, sent);
}

/* What a frame is that is no plain segment. */
enum kind {
	SEGMENT,
	DATAGRAM,
	FIRST_FRAGMENT,
	LATER_FRAGMENT,
	ICMP_ERROR,
};

/*
 * Such a frame taken apart. From here on no pointer into the packet is needed, so that one code, verified once, serves
 * them all wherever their headers begin.
 */
struct sight {
	struct tuple tuple; /* by which its flow is found: an ICMP error's is that of the packets that take its way */
	__be16 id;
	__u16 octets; /* of IP */
	__u8 kind;
	__u8 flags; /* TCP_* */
	bool options;
};

/* STEER_TX stands for "nothing wrong"; else the stack's, and why. */
static __always_inline enum reason look(struct cursor *cursor, int type, struct sight *sight)
{
	struct port_pair *pair;
	struct iphdr *ip;
	struct tcphdr *tcp;

	if (is_tag(type))
		type = parse_tag(cursor);
	if (is_tag(type))
		type = parse_tag(cursor);
	if (type < 0)
		return STEER_MALFORMED;
	if (type != be16(ETH_P_IP))
		return STEER_NOT_IPV4;
	type = parse_ipv4_options(cursor, &ip);
	if (type < 0)
		return STEER_MALFORMED;
	if (type == IPPROTO_ICMP && !(ip->frag_off & IPV4_FRAGMENT_BITS)) {
		sight->kind = ICMP_ERROR;
		type = parse_icmp_error(cursor, &sight->tuple);
		return type > 0 ? STEER_NOT_TCP : type < 0 ? STEER_ICMP_MISS : STEER_TX;
	}
	if (type != IPPROTO_TCP && (type != IPPROTO_UDP || (ip->frag_off & IPV4_FRAGMENT_BITS)))
		return STEER_NOT_TCP;
	map_ipv4(sight->tuple.saddr, ip->saddr);
	map_ipv4(sight->tuple.daddr, ip->daddr);
	sight->tuple.protocol = type;
	sight->tuple.family = 4;
	sight->id = ip->id;
	sight->octets = host16(ip->tot_len);
	sight->options = ip->ihl != 5;
	if (ip->frag_off & IPV4_OFFSET_BITS) {
		sight->kind = LATER_FRAGMENT;
		return STEER_TX;
	}
	if (ip->frag_off & IPV4_FRAGMENT_BITS)
		sight->kind = FIRST_FRAGMENT;
	if (type == IPPROTO_UDP) {
		sight->kind = DATAGRAM;
		if (parse_ports(cursor, &pair))
			return STEER_MALFORMED;
		sight->tuple.sport = pair->source;
		sight->tuple.dport = pair->destination;
		return STEER_TX;
	}
	/* A first fragment without flags is the stack's, too: a SYN could hide in it (RFC 1858, 3). */
	if (parse_tcp(cursor, &tcp) < 0)
		return STEER_MALFORMED;
	sight->tuple.sport = tcp->source;
	sight->tuple.dport = tcp->dest;
	sight->flags = tcp_flags(tcp);
	return STEER_TX;
}

/* A first fragment that goes to the stack: forget where an earlier packet of the same identification went. */
static __always_inline int pass_seen(const struct sight *sight, enum reason why)
{
	struct fragment_key key;

	if (sight->kind == FIRST_FRAGMENT) {
		fragment_key_init(&key, &sight->tuple, sight->id);
		if (recall(&key))
			remember(&key, FRAGMENT_TO_STACK, false);
	}
	return verdict(XDP_PASS, why);
}

/*
 * Not on the account of a flow that got the number since: it began after the number had rested, a second or more after
 * the first fragment. (Half of it is for clocks that are a tick apart.)
 */
static __always_inline void account_later(const struct config *conf, const struct fragment *first, __u16 octets)
{
	struct record *record;
	__u32 index = first->record;

	if (!accounting(conf))
		return;
	record = records.lookup(&index);
	if (record && record->created_ns < first->seen_ns + AA_NSEC_PER_SEC / 2)
		account_for(index, first->reply, octets);
}

/*
 * Behind its first fragment. One that comes before it goes to the stack, and the first will follow it there, so that the
 * packet is put together in one place.
 */
static __always_inline int steer_later_fragment(const struct config *conf, const struct port *port, struct ethhdr *eth,
						const struct sight *sight)
{
	const struct fragment *first;
	struct fragment_key key;

	fragment_key_init(&key, &sight->tuple, sight->id);
	first = recall(&key);
	if (!first)
		remember(&key, FRAGMENT_TO_STACK, true);
	if (!first || first->owner == FRAGMENT_TO_STACK)
		return verdict(XDP_PASS, STEER_FRAGMENT);
	account_later(conf, first, sight->octets);
	return send_to(eth, port, first->owner, STEER_FRAGMENT_LATER, STEER_FRAGMENT_LOCAL);
}

/* Whoever sends it may have made it up: it changes no state, keeps no flow alive, and is compared whole. */
static __always_inline int steer_icmp(const struct port *port, struct ethhdr *eth, const struct sight *sight, __u64 word,
				      __u8 owner)
{
	struct record *record = record_of(word);

	if (!record || !is_exactly(word, record, &sight->tuple))
		return verdict(XDP_PASS, STEER_ICMP_MISS);
	return send_to(eth, port, owner, STEER_ICMP, STEER_ICMP_LOCAL);
}

static __always_inline int steer_first_fragment(const struct port *port, struct ethhdr *eth, const struct sight *sight,
						__u64 word)
{
	const struct fragment *known;
	struct fragment_key key;

	fragment_key_init(&key, &sight->tuple, sight->id);
	known = recall(&key);
	if (known && known->early)
		return verdict(XDP_PASS, STEER_FRAGMENT_EARLY);
	remember(&key, word, false);
	return send_to(eth, port, entry_owner(word), STEER_FRAGMENT_FIRST, STEER_FRAGMENT_LOCAL);
}

/* All that is not a plain segment, parsed anew, so that the plain segment pays for none of it. */
static __always_inline int steer_uncommon(struct xdp_md *ctx, const struct config *conf, const struct port *port,
					  struct ethhdr *eth)
{
	struct cursor cursor = {eth + 1, (void *)(long)ctx->data_end};
	struct sight sight = {};
	struct found found = {};
	enum reason why = look(&cursor, eth->h_proto, &sight);
	struct record *record = 0;
	__u8 owner;

	if (why != STEER_TX)
		return pass_seen(&sight, why);
	if (sight.kind == LATER_FRAGMENT)
		return steer_later_fragment(conf, port, eth, &sight);
	if (!find(conf, hash_tuple(conf, &sight.tuple), &found))
		return pass_seen(&sight, sight.kind == ICMP_ERROR ? STEER_ICMP_MISS :
					 sight.kind == DATAGRAM   ? STEER_NOT_TCP :
					 opening(sight.flags)     ? STEER_SYN :
								    STEER_MISS);
	owner = entry_owner(found.word);
	if (sight.kind == ICMP_ERROR)
		return steer_icmp(port, eth, &sight, found.word, owner);
	if (matters(found.word, sight.flags)) {
		record = own_record(&found, &sight.tuple);
		if (!record)
			return pass_seen(&sight, STEER_COLLISION);
		if (opening(sight.flags))
			return pass_seen(&sight, STEER_SYN);
	}
	touch(&found);
	account(conf, found.word, sight.octets);
	if (record)
		follow(ctx, conf, found.word, record, sight.flags);
	if (sight.kind == FIRST_FRAGMENT)
		return steer_first_fragment(port, eth, &sight, found.word);
	return send_to(eth, port, owner,
		       sight.kind == DATAGRAM ? STEER_DATAGRAM :
		       sight.options	      ? STEER_OPTIONS_TX :
						STEER_TAGGED,
		       STEER_LOCAL);
}

/* A SYN is the stack's, unless it begins what a helper of another node expects: that node has the decision. */
static __always_inline int pass_syn(struct xdp_md *ctx, const struct config *conf, const struct port *port,
				    struct ethhdr *eth, const struct iphdr *ip, const struct tcphdr *tcp,
				    const struct record *flow)
{
	struct tuple tuple;
	__u8 owner;

	if (conf->heir) /* it would not know of the session; the SYN comes again, to it */
		return verdict(XDP_DROP, STEER_HANDING_OVER);
	if (!(conf->features & AA_FEATURE_SHARE_HELPERS))
		return verdict(XDP_PASS, STEER_SYN);
	tuple_from_packet(&tuple, ip, tcp);
	owner = expecting_node(conf, &tuple, flow && flow->state < FLOW_CLOSING);
	/* One of another node's was expected, and has ended. The entry that held its tuple here does not know that, and would
	 * keep netfilter from seeing what a helper of this node expects. */
	if (!owner && flow && flow->state >= FLOW_CLOSING && node_of(flow->owner)->hop != HOP_LOCAL &&
	    was_expected(&tuple))
		hold_entry(ctx, &tuple, 0, false);
	return owner ? send_to(eth, port, owner, STEER_EXPECTED, STEER_SYN) : verdict(XDP_PASS, STEER_SYN);
}

int steer(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	const struct config *conf = configuration();
	const struct port *port;
	const struct node *owner;
	struct found found = {};
	struct ethhdr *eth;
	struct tcphdr *tcp;
	struct iphdr *ip;
	int type;

	type = parse_ethernet(&cursor, &eth);
	if (type < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	port = port_of(ctx->ingress_ifindex);
	if (!port || !conf)
		return verdict(XDP_PASS, STEER_NOT_READY);
	/* The physical MAC: what a former primary still gets is sent on to it (relinquish.bpf.c). */
	if (!same_mac(eth->h_dest, port->virtual_mac) && !same_mac(eth->h_dest, port->physical_mac))
		return verdict(XDP_PASS, STEER_NOT_OURS);
	if (type != be16(ETH_P_IP) || parse_ipv4(&cursor, &ip) != IPPROTO_TCP || (ip->frag_off & IPV4_FRAGMENT_BITS) ||
	    ip->ihl != 5 || parse_tcp(&cursor, &tcp) < 0)
		return steer_uncommon(ctx, conf, port, eth);

	if (!find(conf, hash_ipv4(conf, ip->saddr, ip->daddr, *(__be32 *)tcp, 4 << 8 | IPPROTO_TCP), &found))
		return opens(tcp) ? pass_syn(ctx, conf, port, eth, ip, tcp, 0) : verdict(XDP_PASS, STEER_MISS);
	if (matters(found.word, tcp_flags(tcp))) {
		if (!examine(ctx, conf, &found, ip, tcp))
			return verdict(XDP_PASS, STEER_COLLISION);
		if (opens(tcp))
			return pass_syn(ctx, conf, port, eth, ip, tcp, record_of(found.word));
	}
	account(conf, found.word, host16(ip->tot_len));
	owner = node_of(entry_owner(found.word));
	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);
	touch(&found);
	if (owner->hop == HOP_LOCAL)
		return verdict(XDP_PASS, STEER_LOCAL);
	return send_on(eth, port, owner, STEER_TX);
}
