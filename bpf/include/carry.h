/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A block at the tail of a frame that is TCP or UDP, over IPv4 or IPv6: put there, read, taken off. Lengths and checksums
 * follow, complete ones and those that the device finishes (CHECKSUM_PARTIAL): there the field holds the pseudo-header's sum
 * only, so a length is replaced with BPF_F_PSEUDO_HDR, and the payload, summed later, is left alone.
 */
#ifndef AA_CARRY_H
#define AA_CARRY_H

#include "checksum.h"

#define UDP_LENGTH_OFFSET(udp) ((udp) + 4)

#define HEADERS_MOST (ETH_HLEN + IPV4_LONGEST + 60) /* enough for IPv6 without extension headers, too */

/* What of the headers is needed to carry a block behind them; taken down before anything is changed. */
struct load {
	__u16 total_length;  /* of IP, its header included */
	__u16 header_length; /* of IP and TCP or UDP */
	__u16 transport;     /* where the TCP or UDP header begins in the frame */
	__u8 flags;          /* TCP_* */
	__u8 protocol;
	__u8 family;
	__u8 hops; /* left, of IP */
	bool extended; /* IPv6 with extension headers */
	__u8 pad[5];   /* bcc: whole words */
};

/* What stands in front of the transport header: its protocol, or −1; 1 << 8 for a fragment. */
#define LOAD_FRAGMENT (1 << 8)

static __always_inline int parse_load_ipv4(struct cursor *cursor, struct load *load, struct tuple *tuple)
{
	struct iphdr *ip;
	int protocol = parse_ipv4_options(cursor, &ip);

	if (protocol < 0)
		return -1;
	if (ip->frag_off & IPV4_FRAGMENT_BITS)
		return LOAD_FRAGMENT;
	load->total_length = host16(ip->tot_len);
	load->transport = ETH_HLEN + ipv4_length(ip);
	load->family = 4;
	load->hops = ip->ttl;
	tuple_ipv4(tuple, ip);
	return protocol;
}

static __always_inline int parse_load_ipv6(struct cursor *cursor, struct load *load, struct tuple *tuple)
{
	struct ipv6_fragment *piece = 0;
	struct ipv6_header *ip;
	int next = parse_ipv6(cursor, &ip), protocol;

	if (next < 0)
		return -1;
	protocol = parse_extensions(cursor, next, &piece);
	if (protocol < 0)
		return -1;
	if (piece)
		return LOAD_FRAGMENT;
	load->extended = protocol != next || is_extension(next);
	load->total_length = ipv6_total(ip);
	load->transport = ETH_HLEN + (__u16)(cursor->at - (void *)ip);
	load->family = 6;
	load->hops = ip->hops;
	tuple_ipv6(tuple, ip);
	return protocol;
}

/*
 * 0; 1: neither TCP nor UDP, or a fragment; −1: cut short. `cursor` stands behind the Ethernet header. What the tag
 * covers of the headers goes to `sealed`.
 */
static __always_inline int parse_load(struct cursor *cursor, struct load *load, struct sealed_block *sealed)
{
	const __u8 *version = cursor->at;
	struct port_pair *pair;
	struct tcphdr *tcp;
	int protocol, length = 8;

	if ((void *)(version + 1) > cursor->end)
		return -1;
	if (*version >> 4 == 6)
		protocol = parse_load_ipv6(cursor, load, &sealed->original);
	else
		protocol = parse_load_ipv4(cursor, load, &sealed->original);
	if (protocol < 0)
		return -1;
	if (!is_shared_protocol(protocol))
		return 1;
	load->protocol = protocol;
	load->flags = 0;
	sealed->sequence = 0;
	sealed->zero = 0;
	if (parse_ports(cursor, &pair))
		return -1;
	tuple_transport(&sealed->original, protocol, pair);
	if (protocol == IPPROTO_TCP) {
		length = parse_tcp(cursor, &tcp);
		if (length < 0)
			return -1;
		sealed->sequence = tcp->seq;
		load->flags = tcp_flags(tcp);
	} else if ((void *)(pair + 2) > cursor->end ||
		   pair[1].source != be16(load->total_length + ETH_HLEN - load->transport)) { /* there stands the length */
		return -1;
	}
	load->header_length = load->transport - ETH_HLEN + length;
	return 0;
}

/* All of it is in the frame. */
static __always_inline bool is_whole(const struct __sk_buff *skb, const struct load *load)
{
	return load->total_length >= load->header_length && load->total_length + ETH_HLEN <= skb->len;
}

static __always_inline int checksum_offset(const struct load *load)
{
	return load->protocol == IPPROTO_TCP ? TCP_CHECKSUM_OFFSET(load->transport) : UDP_CHECKSUM_OFFSET(load->transport);
}

/* A UDP checksum of zero stays zero: there is none (RFC 768). */
static __always_inline __u64 checksum_flags(const struct load *load)
{
	return load->protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
}

/* Into the checksum of TCP or UDP, where there is one. */
static __always_inline int add_sum(struct __sk_buff *skb, const struct load *load, __u32 sum)
{
	return bpf_l4_csum_replace(skb, checksum_offset(load), 0, sum, checksum_flags(load));
}

static __always_inline int fix_ip_length(struct __sk_buff *skb, const struct load *load, __u16 total)
{
	__be16 old = be16(load->total_length), now = be16(total);

	if (load->family == 6) {
		now = be16(total - sizeof(struct ipv6_header));
		return bpf_skb_store_bytes(skb, IPV6_LENGTH_OFFSET, &now, 2, 0);
	}
	return bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old, now, 2) ||
	       bpf_skb_store_bytes(skb, IPV4_LENGTH_OFFSET, &now, 2, 0);
}

/* `payload_sum`: what is added to the payload's. */
static __always_inline int change_lengths(struct __sk_buff *skb, const struct load *load, __u16 total, __u32 payload_sum)
{
	__u16 header = load->transport - ETH_HLEN;
	__be16 old = be16(load->total_length - header), now = be16(total - header);
	__u64 flags = checksum_flags(load);
	int check = checksum_offset(load);

	if (fix_ip_length(skb, load, total) || bpf_l4_csum_replace(skb, check, old, now, flags | BPF_F_PSEUDO_HDR | 2))
		return -1;
	if (load->protocol == IPPROTO_UDP && (bpf_l4_csum_replace(skb, check, old, now, flags | 2) ||
					      bpf_skb_store_bytes(skb, UDP_LENGTH_OFFSET(load->transport), &now, 2, 0)))
		return -1;
	return add_sum(skb, load, payload_sum);
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

static __always_inline __be16 type_of(const struct load *load)
{
	return load->family == 6 ? be16(ETH_P_IPV6) : be16(ETH_P_IP);
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
