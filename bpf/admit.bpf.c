// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * admit: TC ingress on the primary's data interfaces, behind arp_answer. An announcement of an auxiliary (announce.bpf.c)
 * is verified; the session it tells of gets a conntrack entry here, so that no other session is given its tuple, and a
 * flow, so that `steer` knows whose the answers are; the block is taken off and the packet goes to its next hop as from
 * the virtual MAC. A session whose tuple is taken is refused: its node lets the entry go and may try another port.
 * Answers to pulses are noted.
 * Writes records, buckets, accounts, tallies, expected, pulses; reads config, ports, nodes.
 */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include "account.h"
#include "carry.h"
#include "conntrack.h"
#include "expectation.h"
#include "flow_insert.h"
#include "maps.h"
#include "parse.h"
#include "pulse.h"

#define ON_ITS_WAY 0x41415357 /* as in handoff: seen there again on its way out */

#ifndef AA_ON_ITS_WAY_NS
#define AA_ON_ITS_WAY_NS (AA_NSEC_PER_SEC / 5) /* a block is at its node after so long, or lost */
#endif

/* What an announcement says of a session. Both tuples as they are on the wire. */
struct told {
	struct tuple original;
	struct tuple reply;
	__u32 connmark;
	__u16 octets; /* of IP, without the block */
	__u8 owner;
	__u8 slot;
	__u8 ended; /* FLOW_ONE_SIDED or FLOW_EXPECTED */
	bool opens;
	__u8 pad[6]; /* bcc: whole words */
};

/* More than the stack has room for. A program is never interrupted by itself on one CPU. */
struct workplace {
	struct sealed_block sealed;
	struct told told;
};
BPF_TABLE("percpu_array", __u32, struct workplace, workplaces, 1);

/* ADMIT_NEW stands for "nothing wrong". */
static __always_inline enum reason inspect(const struct config *conf, const struct port *port, const struct ethhdr *eth,
					   const struct sealed_block *sealed)
{
	const struct handoff_block *block = &sealed->block;
	const struct node *node = node_of(block->owner);
	__u64 tag, wanted;

	if (block->magic != BLOCK_MAGIC || block->version != BLOCK_VERSION_1 || block->length != be16(sizeof(*block)) ||
	    (block->kind != BLOCK_KIND_FLOW && block->kind != BLOCK_KIND_EXPECT && block->kind != BLOCK_KIND_UNKNOWN) ||
	    block->cluster_id != be16(conf->cluster_id) || block->generation != be32(conf->generation))
		return ADMIT_BLOCK;
	if (block->owner >= AA_MAX_NODES || node->hop != HOP_STEER || block->slot != port->slot ||
	    !same_mac(eth->h_source, mac_of(node, port->slot)))
		return ADMIT_STRANGER;
	__builtin_memcpy(&tag, block->tag, 8);
	wanted = block_tag(conf->key, sealed);
	if (tag != wanted)
		return ADMIT_TAG;
	if (block->family != sealed->original.family ||
	    (block->family == 4 && (!is_mapped_ipv4(block->source) || !is_mapped_ipv4(block->destination))) ||
	    (block->kind == BLOCK_KIND_FLOW && block->protocol != sealed->original.protocol))
		return ADMIT_BLOCK;
	return ADMIT_NEW;
}

/* The entry that holds a tuple is nobody's any more: what it was made for has ended, or never passed netfilter here. */
static __always_inline bool is_left_over(struct nf_conn *ct, __u8 protocol)
{
	__u8 state = ct_field(ct, __u8, AA_CT_TCP_STATE);

	return protocol == IPPROTO_TCP && (state == CT_TCP_NONE || state >= CT_TCP_TIME_WAIT);
}

/* 0 when no session has that tuple; what is left over of one goes. `ended`: the flow table knows that it is. */
static __always_inline int make_free(struct __sk_buff *skb, const struct tuple *tuple, bool ended)
{
	struct ct_question question;
	struct nf_conn *ct;

	ct_question_init(&question, tuple);
	ct = ct_ask(skb, &question);
	if (!ct)
		return 0;
	if (ended || is_left_over(ct, tuple->protocol)) {
		ct_expire(skb, &question, ct);
		return 0;
	}
	ct_release(ct);
	return -1;
}

/* Holds the session's tuples on this node: −1 when they are another's. */
static __always_inline int reserve(struct __sk_buff *skb, const struct config *conf, const struct tuple *original,
				   const struct tuple *reply, __u32 connmark, bool ended)
{
	struct nf_conn *ct;

	if (make_free(skb, reply, ended) || make_free(skb, original, ended))
		return -1;
	ct = ct_make(skb, original);
	if (!ct)
		return -1;
	ct_translate(ct, reply);
	ct_field(ct, __u32, AA_CT_MARK) = connmark;
	ct_set_timeout(ct, conf->timeout_s[original->protocol == IPPROTO_UDP ? FLOW_DATAGRAMS : FLOW_SYN_SENT] * 1000);
	ct = ct_insert_entry(ct);
	if (!ct)
		return -1;
	ct_release(ct);
	return 0;
}

static __always_inline void set_timeout(struct __sk_buff *skb, const struct tuple *original, __u32 timeout_s)
{
	struct nf_conn *ct = ct_find(skb, original);

	if (ct)
		ct_hold(ct, timeout_s, false);
}

/* ADMIT_FULL: the entry is there, and must go again. */
static __always_inline enum reason record_session(struct __sk_buff *skb, const struct config *conf, const struct told *told,
						  bool ended)
{
	bool datagrams = told->original.protocol == IPPROTO_UDP;
	union status begun = {};
	struct record *record;
	__u32 index;

	if (reserve(skb, conf, &told->original, &told->reply, told->connmark, ended))
		return ADMIT_CLASH;
	index = take_record(conf);
	record = records.lookup(&index);
	if (!index || !record)
		return ADMIT_FULL;
	begun.owner = told->owner;
	begun.mark = told->connmark;
	begun.slot = told->slot;
	begun.ended = told->ended;
	record->original = told->original;
	record->reply = told->reply;
	record->created_ns = record->seen_ns = record->held_ns = bpf_ktime_get_coarse_ns();
	*status_word(record) = begun.word;
	open_account(conf, index, told->octets);
	if (insert_flow(conf, record, index, datagrams ? FLOW_ESTABLISHED : FLOW_SYN_SENT))
		return ADMIT_FULL;
	if (datagrams)
		change_flow(record, index, 0, ENTRY_SETTLED);
	return ADMIT_NEW;
}

/* The flow that has the answers' tuple: whose is it? */
enum holder { NOBODY, SAME_SESSION, ENDED_SESSION, OTHER_SESSION, OTHER_TUPLE };

static __always_inline enum holder holder_of(const struct found *found, const struct told *told)
{
	struct record *record = record_of(found->word);

	if (!record || !is_exactly(found->word, record, &told->reply))
		return OTHER_TUPLE;
	if (same_tuple(&record->original, &told->original) && record->owner == told->owner &&
	    (!told->opens || record->state < FLOW_CLOSING || told->original.protocol == IPPROTO_UDP))
		return SAME_SESSION;
	return record->state < FLOW_CLOSING ? OTHER_SESSION : ENDED_SESSION;
}

/* Announced again, so it is more than a question and its answer. False when that is known. */
static __always_inline bool lasts(struct record *record, __u32 index)
{
	union status was = {.word = *(volatile __u64 *)status_word(record)}, now = was;

	now.ended |= FLOW_LASTS;
	return is_in_use(was) && now.word != was.word && change_status(record, index, was, now);
}

/* A packet of a session that is recorded already; `timeout_s` when its entry shall have another. */
static __always_inline bool go_on(const struct config *conf, const struct found *found, __u8 flags, __u32 *timeout_s)
{
	struct record *record = record_of(found->word);

	if (!record)
		return false;
	record->seen_ns = bpf_ktime_get_coarse_ns();
	if (record->original.protocol == IPPROTO_UDP) {
		*timeout_s = conf->timeout_s[FLOW_STREAM];
		return lasts(record, entry_record(found->word));
	}
	*timeout_s = conf->timeout_s[FLOW_CLOSED];
	return advance(record, entry_record(found->word), false, flags) == FLOW_CLOSED;
}

static __always_inline void end_found(const struct found *found)
{
	struct record *record = record_of(found->word);

	if (record)
		end_flow(record, entry_record(found->word));
}

/* What is left of another session of that tuple, with other answers, makes room. */
static __always_inline void end_left_over(const struct config *conf, const struct tuple *original)
{
	struct found found = {};
	struct record *record;

	if (!find(conf, hash_tuple(conf, original), &found))
		return;
	record = record_of(found.word);
	if (record && record->state >= FLOW_CLOSING && is_exactly(found.word, record, original))
		end_flow(record, entry_record(found.word));
}

static __always_inline enum reason admit_session(struct __sk_buff *skb, const struct config *conf, const struct told *told,
						 __u8 flags)
{
	enum holder holder = NOBODY;
	struct found found = {};
	enum reason why = ADMIT_AGAIN;
	__u32 timeout_s = 0;
	bool hold = false;

	if (find(conf, hash_tuple(conf, &told->reply), &found))
		holder = holder_of(&found, told);
	if (holder == SAME_SESSION) {
		hold = go_on(conf, &found, flags, &timeout_s);
		account(conf, found.word & ~ENTRY_REPLY, told->octets);
	} else if (told->opens && conf->heir) { /* it would not know of the session; it will be told again */
		return ADMIT_HANDING_OVER;
	} else if (told->opens) {
		if (holder == OTHER_TUPLE)
			return ADMIT_FULL;
		if (holder == OTHER_SESSION)
			return ADMIT_CLASH;
		if (holder == ENDED_SESSION)
			end_found(&found);
		if (told->ended & FLOW_EXPECTED)
			end_left_over(conf, &told->original);
		why = record_session(skb, conf, told, holder == ENDED_SESSION);
		if (why == ADMIT_NEW && (told->ended & FLOW_EXPECTED))
			expect_no_more(&told->original);
		hold = why == ADMIT_FULL;
	}
	if (hold)
		set_timeout(skb, &told->original, timeout_s);
	return why;
}

/* Back to the node it came from, as it came, but for what it is. */
static __always_inline int refuse(struct __sk_buff *skb, const struct config *conf, const struct port *port,
				  const struct load *load, struct sealed_block *sealed)
{
	int at = ETH_HLEN + load->total_length - (int)sizeof(sealed->block);
	const struct node *node = node_of(sealed->block.owner);
	bool odd = load->total_length & 1;
	__u32 before = block_sum(&sealed->block, false, odd), after;

	sealed->block.kind = BLOCK_KIND_REFUSED;
	block_seal(conf, sealed);
	after = block_sum(&sealed->block, true, odd);
	if (bpf_skb_store_bytes(skb, at, &sealed->block, sizeof(sealed->block), 0) ||
	    add_sum(skb, load, before) || add_sum(skb, load, after) ||
	    write_whole_ethernet(skb, mac_of(node, port->slot), port->virtual_mac, be16(ETH_P_ANNOUNCE)))
		return verdict(TC_ACT_SHOT, ADMIT_FAILED);
	count(ADMIT_CLASH);
	return bpf_redirect(port->ifindex, 0);
}

static __always_inline int send_on(struct __sk_buff *skb, const struct port *port, const struct load *load,
				   struct handoff_block *block, enum reason why)
{
	if (take_block_off(skb, load, block) ||
	    write_whole_ethernet(skb, block->next_hop, port->virtual_mac, type_of(load)))
		return verdict(TC_ACT_SHOT, ADMIT_FAILED);
	skb->cb[0] = ON_ITS_WAY;
	count(why);
	return bpf_redirect(port->ifindex, 0);
}

/*
 * Of a node's own session the primary holds what is on the wire: two nodes' sockets may well have the same tuple before NAT.
 */
static __always_inline void tell(struct told *told, const struct load *load, const struct sealed_block *sealed)
{
	const struct handoff_block *block = &sealed->block;

	told->original = sealed->original;
	if (!(block->flags & BLOCK_OWN)) {
		__builtin_memcpy(told->original.saddr, block->source, 16);
		__builtin_memcpy(told->original.daddr, block->destination, 16);
		told->original.sport = block->source_port;
		told->original.dport = block->destination_port;
		told->original.protocol = block->protocol;
	}
	invert(&told->reply, &sealed->original);
	told->connmark = host32(block->connmark);
	told->octets = load->total_length - sizeof(*block);
	told->owner = block->owner;
	told->slot = block->slot;
	told->ended = block->flags & BLOCK_OWN ? FLOW_ONE_SIDED : FLOW_EXPECTED;
	told->opens = load->protocol == IPPROTO_UDP || opening(load->flags);
}

/* Unless it is another's by now, or has just begun: then the block may be on its way to the owner still. */
static __always_inline void forget_flow(struct __sk_buff *skb, const struct config *conf, const struct tuple *tuple,
					__u8 owner)
{
	struct record *record;
	struct found found = {};

	if (!find(conf, hash_tuple(conf, tuple), &found))
		return;
	record = record_of(found.word);
	if (!record || record->owner != owner || !is_exactly(found.word, record, tuple) ||
	    bpf_ktime_get_coarse_ns() < record->created_ns + AA_ON_ITS_WAY_NS)
		return;
	set_timeout(skb, &record->original, 0);
	end_flow(record, entry_record(found.word));
}

/*
 * Its owner has no entry for a UDP flow: it ends, the entry that holds its tuple here is let go, and the datagram comes in
 * once more, past `steer`: `handoff` gives it its block.
 */
static __always_inline int begin_anew(struct __sk_buff *skb, const struct config *conf, const struct port *port,
				      const struct load *load, struct sealed_block *sealed)
{
	struct handoff_block *block = &sealed->block;

	if (load->protocol != IPPROTO_UDP)
		return verdict(TC_ACT_SHOT, ADMIT_BLOCK);
	forget_flow(skb, conf, &sealed->original, block->owner);
	if (!(block->flags & BLOCK_WHOLE))
		return verdict(TC_ACT_SHOT, ADMIT_UNKNOWN);
	if (take_block_off(skb, load, block) ||
	    write_whole_ethernet(skb, port->virtual_mac, mac_of(node_of(block->owner), port->slot), type_of(load)))
		return verdict(TC_ACT_SHOT, ADMIT_FAILED);
	count(ADMIT_UNKNOWN);
	return bpf_redirect(port->ifindex, BPF_F_INGRESS);
}

/*
 * While the role changes hands, frames come to the MAC that the interface has had or is about to have; the kernel takes
 * them for somebody else's.
 */
static __always_inline int admit_other(struct __sk_buff *skb, const struct ethhdr *eth)
{
	const struct port *port;

	if (skb->pkt_type != PACKET_OTHERHOST)
		return verdict(TC_ACT_OK, ADMIT_OTHER);
	port = port_of(skb->ifindex);
	if (!port || (!same_mac(eth->h_dest, port->virtual_mac) && !same_mac(eth->h_dest, port->physical_mac)))
		return verdict(TC_ACT_OK, ADMIT_OTHER);
	bpf_skb_change_type(skb, PACKET_HOST);
	return verdict(TC_ACT_OK, ADMIT_LATE);
}

int admit(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(skb->ifindex);
	struct sealed_block *sealed;
	struct load load = {};
	struct workplace *work;
	__u8 peer[6];
	struct ethhdr *eth;
	enum reason why;
	__u32 zero = 0;
	int type;

	type = parse_ethernet(&cursor, &eth);
	if (type < 0)
		return verdict(TC_ACT_OK, ADMIT_OTHER);
	if (type == be16(ETH_P_HL) && port) {
		copy_mac(peer, eth->h_source);
		return take_pulse(skb, conf, port->slot, peer, port->virtual_mac);
	}
	if (type != be16(ETH_P_ANNOUNCE))
		return admit_other(skb, eth);
	work = workplaces.lookup(&zero);
	if (!work)
		return verdict(TC_ACT_SHOT, ADMIT_FAILED);
	sealed = &work->sealed;
	/* Of a frame whose type it does not know, a driver may leave all behind the Ethernet header out of reach. */
	if (!conf || !port || bpf_skb_pull_data(skb, skb->len < HEADERS_MOST ? skb->len : HEADERS_MOST))
		return verdict(TC_ACT_SHOT, ADMIT_MALFORMED);
	cursor.at = (void *)(long)skb->data;
	cursor.end = (void *)(long)skb->data_end;
	if (parse_ethernet(&cursor, &eth) < 0 || parse_load(&cursor, &load, sealed))
		return verdict(TC_ACT_SHOT, ADMIT_MALFORMED);
	if (!is_whole(skb, &load) || load.total_length < load.header_length + sizeof(sealed->block) ||
	    load_block(skb, &load, &sealed->block))
		return verdict(TC_ACT_SHOT, ADMIT_MALFORMED);
	cursor.at = (void *)(long)skb->data;
	cursor.end = (void *)(long)skb->data_end;
	if (parse_ethernet(&cursor, &eth) < 0)
		return verdict(TC_ACT_SHOT, ADMIT_MALFORMED);
	why = inspect(conf, port, eth, sealed);
	if (why != ADMIT_NEW)
		return verdict(TC_ACT_SHOT, why);

	if (sealed->block.kind == BLOCK_KIND_UNKNOWN)
		return begin_anew(skb, conf, port, &load, sealed);
	tell(&work->told, &load, sealed);
	why = ADMIT_EXPECTED;
	if (sealed->block.kind == BLOCK_KIND_EXPECT)
		expect(&work->told.original, sealed->block.owner);
	else
		why = admit_session(skb, conf, &work->told, load.flags);
	if (why == ADMIT_CLASH)
		return refuse(skb, conf, port, &load, sealed);
	if (why == ADMIT_FULL || why == ADMIT_HANDING_OVER)
		return verdict(TC_ACT_SHOT, why);
	return send_on(skb, port, &load, &sealed->block, why);
}
