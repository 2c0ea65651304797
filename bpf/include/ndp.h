/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Neighbour discovery (RFC 4861) as far as the relay and the guard read and write it (docs/ndp-relay.md). MLD (RFC 2710,
 * 3810) comes with it: it tells just as much about who is on a segment.
 */
#ifndef AA_NDP_H
#define AA_NDP_H

#include "arp.h"
#include "maps.h"
#include "parse.h"

#define MLD_QUERY 130
#define MLD_DONE 132
#define NDP_FIRST 133 /* router solicitation */
#define NDP_SOLICITATION 135
#define NDP_ADVERTISEMENT 136
#define NDP_LAST 137 /* redirect */
#define MLD_REPORT_V2 143

#define NDP_SOLICITED 0x40000000u
#define NDP_OVERRIDE 0x20000000u

#define NDP_SOURCE_MAC 1 /* options … */
#define NDP_TARGET_MAC 2
#define NDP_UNIT 8 /* … whose lengths count so many bytes */

#define NDP_HOPS 255 /* what a router has forwarded has fewer: it does not come from the segment */

/* A solicitation or an advertisement up to its options. */
struct ndp_head {
	struct ipv6_header ip;
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	__u8 target[16];
};
_Static_assert(sizeof(struct ndp_head) == 64, "RFC 4861, 4.3 and 4.4");

/* The same with the one option that those we make have. */
struct ndp_packet {
	struct ndp_head head;
	__u8 option;
	__u8 units;
	__u8 mac[6];
};
_Static_assert(sizeof(struct ndp_packet) == 72, "RFC 4861, 4.6.1");

#define NDP_LENGTH (sizeof(struct ndp_packet) - sizeof(struct ipv6_header)) /* as the IPv6 header counts */
#define NDP_LEAST (sizeof(struct ndp_head) - sizeof(struct ipv6_header))

/*
 * The ICMPv6 type when the packet is NDP's or MLD's, else 0: also behind extension headers, where MLD always is. `at`:
 * where the header that `next` names begins in the frame. What is out of the linear part is read, too.
 */
static __always_inline int ndp_type(struct __sk_buff *skb, __u32 at, __u8 next)
{
	struct ipv6_fragment header; /* the others begin alike */
	__u8 type;
	int i;

#pragma unroll
	for (i = 0; i < IPV6_EXTENSIONS; i++) {
		if (!is_extension(next) && next != IPV6_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, at, &header, sizeof(header)))
			return 0;
		if (next == IPV6_FRAGMENT && (header.offset & IPV6_OFFSET_BITS)) /* a later piece: nothing to look at */
			return 0;
		at += next == IPV6_FRAGMENT ? sizeof(header) : 8 + 8 * (__u32)header.reserved;
		next = header.next;
	}
	if (next != PROTOCOL_ICMPV6 || bpf_skb_load_bytes(skb, at, &type, sizeof(type)))
		return 0;
	if ((type >= MLD_QUERY && type <= MLD_DONE) || (type >= NDP_FIRST && type <= NDP_LAST) || type == MLD_REPORT_V2)
		return type;
	return 0;
}

#define NDP_NONE (-1) /* no verdict: neither NDP nor MLD */

/*
 * On an auxiliary's data interface, before anything is said about MACs: a packet's hop limit does not matter, neither
 * does who sent it. Only the answer that `arp_take` made comes in.
 */
static __always_inline int guard_ndp(struct __sk_buff *skb, const struct cursor *cursor)
{
	const struct ipv6_header *ip = cursor->at;
	int type;

	if ((void *)(ip + 1) > cursor->end)
		return NDP_NONE;
	type = ndp_type(skb, ETH_HLEN + sizeof(*ip), ip->next);
	if (!type)
		return NDP_NONE;
	if (type == NDP_ADVERTISEMENT && skb->mark == ARP_ACCEPTED_MARK) {
		skb->mark = 0;
		return verdict(TC_ACT_OK, NDP_TAKEN);
	}
	return verdict(TC_ACT_SHOT, GUARD_NDP);
}

static __always_inline bool is_zero_address(const __u8 address[16])
{
	const __u32 *word = (const __u32 *)address;

	return (word[0] | word[1] | word[2] | word[3]) == 0;
}

static __always_inline bool same_address(const __u8 a[16], const __u8 b[16])
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

/* fe80::/10 */
static __always_inline bool is_link_local(const __u8 address[16])
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* Can an interface have it? v4-mapped ones stand for IPv4 among the questions. */
static __always_inline bool is_askable(const __u8 address[16])
{
	return address[0] != 0xff && !is_zero_address(address) && !is_mapped_ipv4(address);
}

/* Of 16-bit words in the order of the packet; 0xffff: a message with its checksum in place is right (RFC 1071). */
static __always_inline __u16 ndp_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The pseudo-header's share without the addresses (RFC 8200, 8.1). */
static __always_inline __u64 ndp_pseudo_sum(__u32 length)
{
	return (__u64)be32(length) + be32(PROTOCOL_ICMPV6);
}

/*
 * The frame becomes `packet`, of which addresses, type, flags, target, option and its MAC are filled in. The length is
 * right afterwards whatever it was, and so is a sum over the whole packet that a card has made: the stack goes by it.
 */
static __always_inline int write_ndp(struct __sk_buff *skb, struct ndp_packet *packet, const __u8 *to, const __u8 *from)
{
	struct ethhdr eth;
	__s64 sum;

	packet->head.ip.version = be32(0x60000000);
	packet->head.ip.length = be16(NDP_LENGTH);
	packet->head.ip.next = PROTOCOL_ICMPV6;
	packet->head.ip.hops = NDP_HOPS;
	packet->head.code = 0;
	packet->head.checksum = 0;
	packet->units = 1;
	sum = bpf_csum_diff(0, 0, (__be32 *)packet->head.ip.saddr, 32 + NDP_LENGTH, 0);
	packet->head.checksum = ~ndp_fold((__u32)sum + ndp_pseudo_sum(NDP_LENGTH));
	__builtin_memcpy(eth.h_dest, to, 6);
	__builtin_memcpy(eth.h_source, from, 6);
	eth.h_proto = be16(ETH_P_IPV6);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(*packet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, packet, sizeof(*packet), BPF_F_RECOMPUTE_CSUM))
		return -1;
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

#endif
