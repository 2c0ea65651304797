// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * steer: XDP on the primary's data interfaces. A packet of a known flow goes to its owner by MAC rewrite, out of the
 * interface it came in on; so does an ICMP error about one, and each piece of a fragmented packet. Everything else goes to
 * the primary's own stack, which has an entry for every connection (docs/steering.md has the table of verdicts).
 * Reads buckets, nodes, ports, config; records only for the packets that begin or end a flow, which it follows, and for a
 * datagram now and then. Writes accounts, where accounting is on.
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
	struct ct_question question;
	struct nf_conn *ct;

	ct_question_init(&question, original);
	ct = xdp_ct_lookup(ctx, &question.key, question.size, &question.options, CT_OPTS_SIZE);
	if (ct)
		ct_hold(ct, timeout_s, assure);
}

/* Called until the handshake is complete or a datagram answered, for flags that end a flow, and for the first datagram
 * since the sweep last looked, which may make a stream of it. */
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
		hold_entry(ctx, &record->original,
			   conf->timeout_s[record->original.protocol == IPPROTO_UDP ? FLOW_STREAM : FLOW_ESTABLISHED], true);
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

static __always_inline bool matters(__u64 word, __u8 protocol, __u8 flags)
{
	if (protocol == IPPROTO_UDP && !(word & ENTRY_TOUCHED))
		return true;
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

/* What a frame is that is no plain segment or datagram. */
enum kind {
	WHOLE,
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
	__be32 id;
	__u16 octets; /* of IP */
	__u8 kind;
	__u8 flags; /* TCP_* */
	bool options; /* IPv4 options, IPv6 extension headers */
	bool tagged;
	__u8 pad[6]; /* bcc: whole words */
};

/* In a map, of which the verifier knows no values: so it looks once at what is done with all kinds of frames, not once for
 * each. A program is never interrupted by itself on one CPU. */
BPF_TABLE("percpu_array", __u32, struct sight, sights, 1);


static __always_inline enum reason look_ipv4(struct cursor *cursor, struct sight *sight)
{
	struct iphdr *ip;
	int type = parse_ipv4_options(cursor, &ip);

	if (type < 0)
		return STEER_MALFORMED;
	if (type == IPPROTO_ICMP && !(ip->frag_off & IPV4_FRAGMENT_BITS)) {
		sight->kind = ICMP_ERROR;
		type = parse_icmp_error(cursor, &sight->tuple);
		return type > 0 ? STEER_NOT_TCP : type < 0 ? STEER_ICMP_MISS : STEER_TX;
	}
	tuple_ipv4(&sight->tuple, ip);
	sight->tuple.protocol = type;
	sight->id = ip->id;
	sight->octets = host16(ip->tot_len);
	sight->options = ip->ihl != 5;
	if (ip->frag_off & IPV4_OFFSET_BITS)
		sight->kind = LATER_FRAGMENT;
	else if (ip->frag_off & IPV4_FRAGMENT_BITS)
		sight->kind = FIRST_FRAGMENT;
	return STEER_TX;
}

static __always_inline enum reason look_ipv6(struct cursor *cursor, struct sight *sight)
{
	struct ipv6_fragment *piece = 0;
	struct ipv6_header *ip;
	int next = parse_ipv6(cursor, &ip), type;

	if (next < 0)
		return STEER_MALFORMED;
	type = parse_extensions(cursor, next, &piece);
	if (type < 0)
		return STEER_EXTENSIONS;
	if (type == PROTOCOL_ICMPV6 && !piece) {
		sight->kind = ICMP_ERROR;
		type = parse_icmpv6_error(cursor, &sight->tuple);
		return type > 0 ? STEER_NOT_TCP : type < 0 ? STEER_ICMP_MISS : STEER_TX;
	}
	tuple_ipv6(&sight->tuple, ip);
	sight->tuple.protocol = type;
	sight->octets = ipv6_total(ip);
	sight->options = is_extension(next);
	if (piece) {
		sight->id = piece->id;
		sight->kind = piece->offset & IPV6_OFFSET_BITS ? LATER_FRAGMENT : FIRST_FRAGMENT;
	}
	return STEER_TX;
}

/* STEER_TX stands for "nothing wrong"; else the stack's, and why. */
static __always_inline enum reason look(struct cursor *cursor, int type, struct sight *sight)
{
	struct port_pair *pair;
	struct tcphdr *tcp;
	enum reason why;

	sight->tagged = is_tag(type);
	if (is_tag(type))
		type = parse_tag(cursor);
	if (is_tag(type))
		type = parse_tag(cursor);
	if (type < 0)
		return STEER_MALFORMED;
	if (type == be16(ETH_P_IP))
		why = look_ipv4(cursor, sight);
	else if (type == be16(ETH_P_IPV6))
		why = look_ipv6(cursor, sight);
	else
		return STEER_NOT_IPV4;
	if (why != STEER_TX || sight->kind == ICMP_ERROR)
		return why;
	if (!is_shared_protocol(sight->tuple.protocol))
		return STEER_NOT_TCP;
	if (sight->kind == LATER_FRAGMENT)
		return STEER_TX;
	if (parse_ports(cursor, &pair))
		return STEER_MALFORMED;
	tuple_transport(&sight->tuple, sight->tuple.protocol, pair);
	if (sight->tuple.protocol == IPPROTO_UDP)
		return STEER_TX;
	/* A first fragment without flags is the stack's, too: a SYN could hide in it (RFC 1858, 3). */
	if (parse_tcp(cursor, &tcp) < 0)
		return STEER_MALFORMED;
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

/* A SYN is the stack's, unless it begins what a helper of another node expects: that node has the decision. */
static __always_inline int pass_syn(struct xdp_md *ctx, const struct config *conf, const struct port *port,
				    struct ethhdr *eth, const struct sight *sight, const struct record *flow)
{
	const struct tuple *tuple = &sight->tuple;
	__u8 owner;

	if (sight->kind != WHOLE)
		return pass_seen(sight, STEER_SYN);
	if (conf->heir) /* it would not know of the session; the SYN comes again, to it */
		return verdict(XDP_DROP, STEER_HANDING_OVER);
	if (!(conf->features & AA_FEATURE_SHARE_HELPERS))
		return verdict(XDP_PASS, STEER_SYN);
	owner = expecting_node(tuple);
	if (!owner && flow && (flow->ended & FLOW_EXPECTED)) {
		/* Its own SYN, repeated; or it was another node's, and has ended. Of that the entry that held its tuple here knows
		 * nothing, and would keep netfilter from seeing what a helper of this node expects. */
		if (flow->state < FLOW_CLOSING)
			owner = flow->owner;
		else if (node_of(flow->owner)->hop != HOP_LOCAL)
			hold_entry(ctx, tuple, 0, false);
	}
	return owner ? send_to(eth, port, owner, STEER_EXPECTED, STEER_SYN) : verdict(XDP_PASS, STEER_SYN);
}

static __always_inline enum reason sent_as(const struct sight *sight)
{
	if (sight->options)
		return STEER_OPTIONS_TX;
	if (sight->tagged)
		return STEER_TAGGED;
	return sight->tuple.protocol == IPPROTO_TCP ? STEER_TX : STEER_DATAGRAM;
}

/* This node becomes primary in a dead one's place, and whose entries of UDP flows are not all there yet: the stack would
 * take a datagram that the switch floods for a session of its own. The next one finds its entry. */
static __always_inline bool awaits_entry(const struct config *conf, __u8 owner, __u8 protocol)
{
	return conf->heir == conf->self && protocol == IPPROTO_UDP && owner != conf->self && node_of(owner)->hop == HOP_LOCAL;
}

/*
 * All that is no plain segment or datagram, and of those the ones that begin, settle or end a flow or may be another
 * session's: parsed anew, so that the rest pays for none of it.
 */
static __always_inline int steer_uncommon(struct xdp_md *ctx, const struct config *conf, const struct port *port,
					  struct ethhdr *eth)
{
	struct cursor cursor = {eth + 1, (void *)(long)ctx->data_end};
	struct record *record = 0;
	struct found found = {};
	struct sight *sight;
	enum reason why;
	__u32 zero = 0;
	__u8 owner;

	sight = sights.lookup(&zero);
	if (!sight)
		return verdict(XDP_PASS, STEER_NOT_READY);
	__builtin_memset(sight, 0, sizeof(*sight));
	why = look(&cursor, eth->h_proto, sight);
	if (why != STEER_TX)
		return pass_seen(sight, why);
	if (sight->kind == LATER_FRAGMENT)
		return steer_later_fragment(conf, port, eth, sight);
	if (!find(conf, hash_tuple(conf, &sight->tuple), &found)) {
		if (opening(sight->flags))
			return pass_syn(ctx, conf, port, eth, sight, 0);
		return pass_seen(sight, sight->kind == ICMP_ERROR ? STEER_ICMP_MISS : STEER_MISS);
	}
	owner = entry_owner(found.word);
	if (sight->kind == ICMP_ERROR)
		return steer_icmp(port, eth, sight, found.word, owner);
	if (matters(found.word, sight->tuple.protocol, sight->flags)) {
		record = own_record(&found, &sight->tuple);
		if (!record)
			return pass_seen(sight, STEER_COLLISION);
		if (opening(sight->flags))
			return pass_syn(ctx, conf, port, eth, sight, record);
	}
	if (awaits_entry(conf, owner, sight->tuple.protocol))
		return verdict(XDP_DROP, STEER_HANDING_OVER);
	touch(&found);
	account(conf, found.word, sight->octets);
	if (record)
		follow(ctx, conf, found.word, record, sight->flags);
	if (sight->kind == FIRST_FRAGMENT)
		return steer_first_fragment(port, eth, sight, found.word);
	return send_to(eth, port, owner, sent_as(sight), STEER_LOCAL);
}

/* A plain segment or datagram: headers as short as they can be, in one piece. */
struct plain {
	struct hash hash;
	__u16 octets; /* of IP */
	__u8 protocol;
	__u8 flags; /* TCP_* */
};

/* The ports, and of TCP the flags; null when it is something else. */
static __always_inline const __be32 *parse_plain(struct cursor *cursor, int protocol, struct plain *plain)
{
	struct port_pair *pair;
	struct tcphdr *tcp;

	plain->protocol = protocol;
	if (protocol == IPPROTO_TCP) {
		if (parse_tcp(cursor, &tcp) < 0)
			return 0;
		plain->flags = tcp_flags(tcp);
		return (const __be32 *)tcp;
	}
	if (protocol != IPPROTO_UDP || parse_ports(cursor, &pair))
		return 0;
	return (const __be32 *)pair;
}

static __always_inline bool is_plain_ipv4(struct cursor *cursor, const struct config *conf, struct plain *plain)
{
	const __be32 *both_ports;
	struct iphdr *ip;
	int protocol = parse_ipv4(cursor, &ip);

	if (protocol < 0 || (ip->frag_off & IPV4_FRAGMENT_BITS) || ip->ihl != 5)
		return false;
	both_ports = parse_plain(cursor, protocol, plain);
	if (!both_ports)
		return false;
	plain->hash = hash_ipv4(conf, ip->saddr, ip->daddr, *both_ports, 4 << 8 | plain->protocol);
	plain->octets = host16(ip->tot_len);
	return true;
}

static __always_inline bool is_plain_ipv6(struct cursor *cursor, const struct config *conf, struct plain *plain)
{
	const __be32 *both_ports;
	struct ipv6_header *ip;

	both_ports = parse_plain(cursor, parse_ipv6(cursor, &ip), plain);
	if (!both_ports)
		return false;
	plain->hash = hash_ipv6(conf, (const __u32 *)ip->saddr, (const __u32 *)ip->daddr, *both_ports,
				6 << 8 | plain->protocol);
	plain->octets = ipv6_total(ip);
	return true;
}

/* In the middle of a session, which is all but a few packets. */
static __always_inline int steer_plain(const struct config *conf, const struct port *port, struct ethhdr *eth,
				       const struct found *found, const struct plain *plain)
{
	const struct node *owner = node_of(entry_owner(found->word));

	account(conf, found->word, plain->octets);
	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);
	touch(found);
	if (owner->hop == HOP_LOCAL)
		return awaits_entry(conf, entry_owner(found->word), plain->protocol) ?
			       verdict(XDP_DROP, STEER_HANDING_OVER) :
			       verdict(XDP_PASS, STEER_LOCAL);
	return send_on(eth, port, owner, plain->protocol == IPPROTO_TCP ? STEER_TX : STEER_DATAGRAM);
}

int steer(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	const struct config *conf = configuration();
	const struct port *port;
	struct plain plain = {};
	struct found found = {};
	struct ethhdr *eth;
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
	if (type == be16(ETH_P_IP)   ? is_plain_ipv4(&cursor, conf, &plain) :
	    type == be16(ETH_P_IPV6) ? is_plain_ipv6(&cursor, conf, &plain) :
				       false) {
		find(conf, plain.hash, &found);
		if (!found.word && !opening(plain.flags))
			return verdict(XDP_PASS, STEER_MISS);
		if (!found.word && !conf->heir && !(conf->features & AA_FEATURE_SHARE_HELPERS)) /* a flood, most of all */
			return verdict(XDP_PASS, STEER_SYN);
		if (found.word && !matters(found.word, plain.protocol, plain.flags))
			return steer_plain(conf, port, eth, &found, &plain);
	}
	return steer_uncommon(ctx, conf, port, eth);
}
