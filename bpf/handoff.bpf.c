// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * handoff: TC egress on the primary's data interfaces. A forwarded SYN has been through the whole ruleset: its conntrack
 * entry holds every decision. The policy says whether the session is shared, persistence or the schedule with whom; the
 * flow is recorded under both tuples; an auxiliary's SYN gets its original headers back, the handoff block appended, and
 * leaves by the interface it came in on.
 * Writes records, buckets, accounts, tallies, turns, rule_hits and bindings; reads config, ports, nodes, draining and both banks.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "assign.h"
#include "block.h"
#include "checksum.h"
#include "conntrack.h"
#include "emit.h"
#include "keep.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"

/* In skb->cb[0] between the redirect and our second sight of the same packet on its ingress interface. */
#define ON_ITS_WAY 0x41415357

/* The packet as it is about to leave. */
struct egress {
	struct tuple tuple;
	__be32 sequence;
	__u16 total_length;
	__u16 tcp_length;
	__u16 tcp; /* where its header begins in the frame */
	__u8 ttl;
	__u8 protocol;
};

static __always_inline int read_decision(struct __sk_buff *skb, const struct tuple *leaving, struct decision *decision)
{
	struct bpf_sock_tuple key;
	struct ct_options options;
	struct nf_conn *ct;
	__u8 tcp_state;

	/* After POSTROUTING the packet carries the reply tuple, inverted. Looked up as it stands it may hit another
	 * connection's original tuple (hairpin, no NAT), so ask for the reply. */
	__builtin_memset(&key, 0, sizeof(key));
	key.ipv4.saddr = unmap_ipv4(leaving->daddr);
	key.ipv4.daddr = unmap_ipv4(leaving->saddr);
	key.ipv4.sport = leaving->dport;
	key.ipv4.dport = leaving->sport;
	ct_options_init(&options);
	ct = skb_ct_lookup(skb, &key, sizeof(key.ipv4), &options, CT_OPTS_SIZE);
	if (!ct)
		return -1;
	ct_tuple(ct, AA_CT_ORIGINAL, &decision->original);
	ct_tuple(ct, AA_CT_REPLY, &decision->reply);
	decision->connmark = ct_field(ct, __u32, AA_CT_MARK);
	decision->status = ct_field(ct, __u32, AA_CT_STATUS);
	tcp_state = ct_field(ct, __u8, AA_CT_TCP_STATE);
	decision->under_way = tcp_state > CT_TCP_SYN_SENT && tcp_state < CT_TCP_TIME_WAIT;
	decision->helper = ct_helper(ct);
	ct_release(ct);
	return options.direction == FLOW_REPLY ? 0 : -1;
}

static __always_inline int restore_headers(struct __sk_buff *skb, const struct egress *now, const struct tuple *original)
{
	__be32 old_source = unmap_ipv4(now->tuple.saddr), source = unmap_ipv4(original->saddr);
	__be32 old_destination = unmap_ipv4(now->tuple.daddr), destination = unmap_ipv4(original->daddr);
	__be16 old_hop = be16((__u16)(now->ttl << 8 | now->protocol));
	__be16 hop = be16((__u16)((now->ttl + 1) << 8 | now->protocol));
	int ip = ETH_HLEN, check = TCP_CHECKSUM_OFFSET(now->tcp);
	__be32 both_ports = (__u32)original->sport | (__u32)original->dport << 16;
	__u8 ttl = now->ttl + 1; /* forwarding took one; the auxiliary takes it again */

	return bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old_source, source, 4) ||
	       bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old_destination, destination, 4) ||
	       bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old_hop, hop, 2) ||
	       bpf_l4_csum_replace(skb, check, old_source, source, BPF_F_PSEUDO_HDR | 4) ||
	       bpf_l4_csum_replace(skb, check, old_destination, destination, BPF_F_PSEUDO_HDR | 4) ||
	       bpf_l4_csum_replace(skb, check, now->tuple.sport, original->sport, 2) ||
	       bpf_l4_csum_replace(skb, check, now->tuple.dport, original->dport, 2) ||
	       bpf_skb_store_bytes(skb, ip + (int)__builtin_offsetof(struct iphdr, ttl), &ttl, 1, 0) ||
	       bpf_skb_store_bytes(skb, ip + (int)__builtin_offsetof(struct iphdr, saddr), &source, 4, 0) ||
	       bpf_skb_store_bytes(skb, ip + (int)__builtin_offsetof(struct iphdr, daddr), &destination, 4, 0) ||
	       bpf_skb_store_bytes(skb, now->tcp, &both_ports, 4, 0);
}

static __always_inline void fill_block(struct sealed_block *sealed, const struct config *conf,
				       const struct decision *decision, const struct egress *now, __u8 owner, __u8 slot,
				       __u32 mark)
{
	struct handoff_block *block = &sealed->block;
	__u64 tag;

	sealed->original = decision->original;
	sealed->sequence = now->sequence;
	sealed->zero = 0;
	block->cluster_id = be16(conf->cluster_id);
	block->owner = owner;
	block->slot = slot;
	block->family = 4;
	block->protocol = IPPROTO_TCP;
	block->helper = decision->helper;
	block->reserved = 0;
	block->generation = be32(conf->generation);
	block->epoch = be32(conf->epoch);
	block->connmark = be32(decision->connmark);
	block->mark = be32(mark);
	block->status = be32(decision->status);
	/* The reply tuple read backwards is the translated one. */
	block->source_port = decision->reply.dport;
	block->destination_port = decision->reply.sport;
	__builtin_memcpy(block->source, decision->reply.daddr, 16);
	__builtin_memcpy(block->destination, decision->reply.saddr, 16);
	block->magic = BLOCK_MAGIC;
	block->version = BLOCK_VERSION_1;
	block->kind = BLOCK_KIND_SYN;
	block->length = be16(sizeof(*block));
	tag = block_tag(conf->key, sealed);
	__builtin_memcpy(block->tag, &tag, 8);
}

static __always_inline int append_block(struct __sk_buff *skb, const struct egress *now, struct handoff_block *block,
					__u32 payload_offset_odd)
{
	__u16 total = now->total_length + sizeof(*block);
	__u16 length = now->tcp_length + sizeof(*block);

	if (bpf_skb_store_bytes(skb, ETH_HLEN + now->total_length, block, sizeof(*block), 0))
		return -1;
	return fix_lengths(skb, now->tcp, be16(now->total_length), be16(total), be16(now->tcp_length), be16(length),
			   block_sum(block, true, payload_offset_odd));
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

int handoff(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	struct sealed_block sealed;
	struct decision decision;
	const struct config *conf;
	const struct node *node;
	const struct port *port;
	struct egress now = {};
	struct ethhdr *eth;
	struct tcphdr *tcp;
	struct iphdr *ip;
	struct assignment assigned;
	enum reason unfit = HANDOFF_SENT;
	struct request request;
	__u32 room;
	bool odd;

	if (parse_ethernet(&cursor, &eth) != be16(ETH_P_IP) || parse_ipv4_options(&cursor, &ip) != IPPROTO_TCP ||
	    (ip->frag_off & IPV4_FRAGMENT_BITS))
		return verdict(TC_ACT_OK, HANDOFF_OTHER);
	if (parse_tcp(&cursor, &tcp) < 0 || !opens(tcp))
		return verdict(TC_ACT_OK, HANDOFF_OTHER);
	if (skb->cb[0] == ON_ITS_WAY) {
		skb->cb[0] = 0;
		return verdict(TC_ACT_OK, HANDOFF_ON_ITS_WAY);
	}
	if (skb->ingress_ifindex == 0)
		return verdict(TC_ACT_OK, HANDOFF_OWN);
	port = port_of(skb->ingress_ifindex);
	if (!port)
		return verdict(TC_ACT_OK, HANDOFF_NOT_DATA);
	conf = configuration();
	if (!conf || !conf->self)
		return verdict(TC_ACT_OK, HANDOFF_NOT_READY);

	tuple_from_packet(&now.tuple, ip, tcp);
	now.sequence = tcp->seq;
	now.total_length = host16(ip->tot_len);
	now.tcp_length = now.total_length - ipv4_length(ip);
	now.tcp = ETH_HLEN + ipv4_length(ip);
	now.ttl = ip->ttl;
	now.protocol = ip->protocol;
	odd = now.total_length & 1;
	if (now.total_length < ipv4_length(ip) + tcp->doff * 4 || now.total_length + ETH_HLEN > skb->len || ip->ttl == 255)
		return verdict(TC_ACT_OK, HANDOFF_UNSUPPORTED);
	if (skb->vlan_present) /* its answers come in tagged, and neighbours there are not relayed */
		unfit = HANDOFF_TAGGED;
	else if (ip->ihl != 5 && forwarding_wrote(ip, cursor.end))
		unfit = HANDOFF_OPTIONS;

	if (conf->heir) /* as in `steer`, which this one had passed already */
		return verdict(TC_ACT_SHOT, HANDOFF_HANDING_OVER);
	if (read_decision(skb, &now.tuple, &decision))
		return verdict(TC_ACT_OK, HANDOFF_NO_ENTRY);
	if (decision.helper && !shares_helper(conf, &decision))
		return verdict(TC_ACT_OK, HANDOFF_HELPER);
	if (decision.status & IPS_EXPECTED)
		return keep(skb, conf, &decision, HANDOFF_EXPECTED);
	room = now.total_length + sizeof(sealed.block);
	if (unfit == HANDOFF_SENT &&
	    (room > port->mtu || (decision.helper && room > AA_PUNT_FRAME - ETH_HLEN))) /* no agent takes a longer one */
		unfit = HANDOFF_NO_ROOM;
	if (unfit != HANDOFF_SENT)
		return keep(skb, conf, &decision, unfit);

	request.connmark = decision.connmark;
	request.mark = skb->mark;
	request.octets = now.total_length;
	request.slot = port->slot;
	assigned = assign(conf, &decision, &request);
	emit_if_due(skb, conf);
	if (!assigned.owner)
		return verdict(TC_ACT_OK, assigned.why);
	node = node_of(assigned.owner);
	if (!node || node->hop == HOP_NONE)
		return stay(conf, &decision, HANDOFF_NO_OWNER);
	if (node->hop == HOP_LOCAL)
		return verdict(TC_ACT_OK, assigned.why == HANDOFF_UNDER_WAY ? HANDOFF_UNDER_WAY : HANDOFF_LOCAL);
	if (assigned.running)
		hold_again(skb, conf, &decision.original);

	fill_block(&sealed, conf, &decision, &now, assigned.owner, port->slot, skb->mark);
	if (bpf_skb_change_tail(skb, ETH_HLEN + room, 0)) /* no memory: only what has just begun can still stay */
		return assigned.why == HANDOFF_SENT ? stay(conf, &decision, HANDOFF_NO_ROOM) :
						      verdict(TC_ACT_OK, HANDOFF_NO_ROOM);
	if (restore_headers(skb, &now, &decision.original) || append_block(skb, &now, &sealed.block, odd) ||
	    write_ethernet(skb, mac_of(node, port->slot), port->virtual_mac))
		return verdict(TC_ACT_SHOT, HANDOFF_FAILED);
	skb->cb[0] = ON_ITS_WAY;
	count(assigned.why);
	return bpf_redirect(port->ifindex, 0);
}

/*
 * In front of `handoff` on a primary that was cut off from all its networks: another node may have become primary
 * meanwhile, so nothing leaves before it has asked (docs/promotion.md).
 */
int mute(struct __sk_buff *skb)
{
	return verdict(skb ? TC_ACT_SHOT : TC_ACT_OK, MUTED);
}
