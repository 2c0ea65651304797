/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A block at the tail of a frame that is TCP or UDP over IPv4: put there, read, taken off. Lengths and checksums follow. */
#ifndef AA_CARRY_H
#define AA_CARRY_H

#include "checksum.h"

#define UDP_LENGTH_OFFSET(udp) ((udp) + 4)
#define UDP_CHECKSUM_OFFSET(udp) ((udp) + 6)

#define HEADERS_MOST (ETH_HLEN + IPV4_LONGEST + 60)

/* What of the headers is needed to carry a block behind them; taken down before anything is changed. */
struct load {
	__u16 total_length;  /* of IP */
	__u16 header_length; /* of IP and TCP or UDP */
	__u16 transport;     /* where the TCP or UDP header begins in the frame */
	__u8 flags;          /* TCP_* */
	__u8 protocol;
};

/*
 * 0; 1: neither TCP nor UDP, or a fragment; −1: cut short. `cursor` stands behind the Ethernet header. What the tag
 * covers of the headers goes to `sealed`.
 */
static __always_inline int parse_load(struct cursor *cursor, struct load *load, struct sealed_block *sealed)
{
	struct tuple *tuple = &sealed->original;
	struct port_pair *pair;
	struct tcphdr *tcp;
	struct iphdr *ip;
	int protocol = parse_ipv4_options(cursor, &ip);

	if (protocol < 0)
		return -1;
	if ((protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || (ip->frag_off & IPV4_FRAGMENT_BITS))
		return 1;
	load->total_length = host16(ip->tot_len);
	load->transport = ETH_HLEN + ipv4_length(ip);
	load->header_length = ipv4_length(ip) + 8;
	load->protocol = protocol;
	load->flags = 0;
	map_ipv4(tuple->saddr, ip->saddr);
	map_ipv4(tuple->daddr, ip->daddr);
	tuple->protocol = protocol;
	tuple->family = 4;
	tuple->zero = 0;
	sealed->sequence = 0;
	sealed->zero = 0;
	if (protocol == IPPROTO_TCP) {
		int length = parse_tcp(cursor, &tcp);

		if (length < 0)
			return -1;
		load->header_length = ipv4_length(ip) + length;
		sealed->sequence = tcp->seq;
		load->flags = tcp_flags(tcp);
		tuple->sport = tcp->source;
		tuple->dport = tcp->dest;
		return 0;
	}
	if (parse_ports(cursor, &pair) || (void *)(pair + 2) > cursor->end ||
	    pair[1].source != be16(load->total_length - ipv4_length(ip))) /* there stands the length */
		return -1;
	tuple->sport = pair->source;
	tuple->dport = pair->destination;
	return 0;
}

/* A UDP checksum of zero stays zero: there is none (RFC 768). */
static __always_inline int fix_udp(struct __sk_buff *skb, int udp, __be16 old, __be16 now, __u32 payload_sum)
{
	int check = UDP_CHECKSUM_OFFSET(udp);

	return bpf_l4_csum_replace(skb, check, old, now, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | 2) ||
	       bpf_l4_csum_replace(skb, check, old, now, BPF_F_MARK_MANGLED_0 | 2) ||
	       bpf_skb_store_bytes(skb, UDP_LENGTH_OFFSET(udp), &now, 2, 0) ||
	       bpf_l4_csum_replace(skb, check, 0, payload_sum, BPF_F_MARK_MANGLED_0);
}

static __always_inline int change_lengths(struct __sk_buff *skb, const struct load *load, __u16 total, __u32 payload_sum)
{
	__u16 header = load->transport - ETH_HLEN;
	__be16 old_total = be16(load->total_length), old = be16(load->total_length - header), now = be16(total - header);
	__be16 new_total = be16(total);

	if (load->protocol == IPPROTO_TCP)
		return fix_lengths(skb, load->transport, old_total, new_total, old, now, payload_sum);
	return bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old_total, new_total, 2) ||
	       bpf_skb_store_bytes(skb, IPV4_LENGTH_OFFSET, &new_total, 2, 0) ||
	       fix_udp(skb, load->transport, old, now, payload_sum);
}

/* Into the checksum of TCP or UDP, where there is one. */
static __always_inline int add_sum(struct __sk_buff *skb, const struct load *load, __u32 sum)
{
	int check = load->protocol == IPPROTO_TCP ? TCP_CHECKSUM_OFFSET(load->transport) : UDP_CHECKSUM_OFFSET(load->transport);

	return bpf_l4_csum_replace(skb, check, 0, sum, load->protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0);
}

static __always_inline int load_block(struct __sk_buff *skb, const struct load *load, struct handoff_block *block)
{
	return bpf_skb_load_bytes(skb, ETH_HLEN + load->total_length - sizeof(*block), block, sizeof(*block));
}

/* The frame has its new length already. */
static __always_inline int put_block(struct __sk_buff *skb, const struct load *load, struct handoff_block *block)
{
	__u16 total = load->total_length + sizeof(*block);

	if (bpf_skb_store_bytes(skb, ETH_HLEN + load->total_length, block, sizeof(*block), 0))
		return -1;
	return change_lengths(skb, load, total, block_sum(block, true, load->total_length & 1));
}

static __always_inline int take_block_off(struct __sk_buff *skb, const struct load *load, struct handoff_block *block)
{
	__u16 total = load->total_length - sizeof(*block);

	if (change_lengths(skb, load, total, block_sum(block, false, load->total_length & 1)))
		return -1;
	return bpf_skb_change_tail(skb, ETH_HLEN + total, 0);
}

/* Who sends an announcement, and to whom, and that it is one. */
static __always_inline int write_whole_ethernet(struct __sk_buff *skb, const __u8 *to, const __u8 *from, __be16 type)
{
	struct ethhdr eth;

	__builtin_memcpy(eth.h_dest, to, 6);
	__builtin_memcpy(eth.h_source, from, 6);
	eth.h_proto = type;
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

#endif
