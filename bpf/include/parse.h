/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Parsers: each moves a cursor past one header and gives what follows, or −1 when the packet ends too early. */
#ifndef AA_PARSE_H
#define AA_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#include "types.h"

#define be16(x) ((__be16)__builtin_bswap16(x))
#define be32(x) ((__be32)__builtin_bswap32(x))
#define be64(x) ((__be64)__builtin_bswap64(x))
#define host16(x) __builtin_bswap16((__u16)(x))
#define host32(x) __builtin_bswap32((__u32)(x))
#define host64(x) __builtin_bswap64((__u64)(x))

#define IPV4_FRAGMENT_BITS be16(0x3fff) /* more-fragments and the offset; not don't-fragment */
#define IPV4_OFFSET_BITS be16(0x1fff)

#define IPV4_OPTION_END 0
#define IPV4_OPTION_NOP 1
#define IPV4_OPTION_RECORD 7
#define IPV4_OPTION_TIME 68
#define IPV4_OPTION_LOOSE 131
#define IPV4_OPTION_STRICT 137

/* ICMP errors (RFC 792): each carries the header of the packet it is about, and at least 8 bytes behind that. */
#define ICMP_UNREACHABLE 3
#define ICMP_QUENCH 4
#define ICMP_EXCEEDED 11
#define ICMP_PARAMETER 12

/* ICMPv6 errors (RFC 4443): their types are below 128, and each carries as much of the packet as there is room for. */
#define PROTOCOL_ICMPV6 58
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_TOO_BIG 2
#define ICMPV6_EXCEEDED 3
#define ICMPV6_PARAMETER 4

#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_DESTINATION 60
#define IPV6_OFFSET_BITS be16(0xfff8)
#define IPV6_EXTENSIONS 4 /* more in one packet are nobody's */

#define ARP_HEADER_TYPE_ETHER 1
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define ARP_RELAY_REQUEST 201
#define ARP_RELAY_REPLY 202

/* ARP for IPv4 over Ethernet (RFC 826). */
struct arp_ipv4 {
	__be16 hardware_type;
	__be16 protocol_type;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender_ip;
	__u8 target_mac[6];
	__be32 target_ip;
} __attribute__((packed));
_Static_assert(sizeof(struct arp_ipv4) == 28, "RFC 826");

/* RFC 8200, 3. */
struct ipv6_header {
	__be32 version; /* in the upper four bits; traffic class and flow label behind it */
	__be16 length;	/* of what follows */
	__u8 next;
	__u8 hops;
	__u8 saddr[16];
	__u8 daddr[16];
};
_Static_assert(sizeof(struct ipv6_header) == 40, "RFC 8200");

/* RFC 8200, 4.3, 4.4, 4.6: what these begin with. */
struct ipv6_extension {
	__u8 next;
	__u8 length; /* in units of 8 bytes, without the first 8 */
};

struct ipv6_fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in units of 8 bytes, in the upper 13 bits; the lowest bit: more follow */
	__be32 id;
};

struct vlan_tag {
	__be16 control;
	__be16 inner_type;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

/* Of TCP and UDP alike. */
struct port_pair {
	__be16 source;
	__be16 destination;
};

struct cursor {
	void *at;
	void *end;
};

/* The EtherType (network order), or −1. */
static __always_inline int parse_ethernet(struct cursor *cursor, struct ethhdr **header)
{
	struct ethhdr *eth = cursor->at;

	if ((void *)(eth + 1) > cursor->end)
		return -1;
	cursor->at = eth + 1;
	*header = eth;
	return eth->h_proto;
}

static __always_inline bool is_tag(int type)
{
	return type == be16(ETH_P_8021Q) || type == be16(ETH_P_8021AD);
}

/* The EtherType behind one VLAN tag, or −1. */
static __always_inline int parse_tag(struct cursor *cursor)
{
	struct vlan_tag *tag = cursor->at;

	if ((void *)(tag + 1) > cursor->end)
		return -1;
	cursor->at = tag + 1;
	return tag->inner_type;
}

/* The protocol, or −1; `cursor` stands behind the header only when there are no options. */
static __always_inline int parse_ipv4(struct cursor *cursor, struct iphdr **header)
{
	struct iphdr *ip = cursor->at;

	if ((void *)(ip + 1) > cursor->end || ip->version != 4 || ip->ihl < 5)
		return -1;
	cursor->at = ip + 1;
	*header = ip;
	return ip->protocol;
}

#define IPV4_LONGEST 60

static __always_inline __u32 ipv4_length(const struct iphdr *ip)
{
	return ip->ihl * 4u;
}

/* The same for any length: `cursor` stands behind the options, which may end behind the packet. */
static __always_inline int parse_ipv4_options(struct cursor *cursor, struct iphdr **header)
{
	struct iphdr *ip;
	int protocol = parse_ipv4(cursor, &ip);

	if (protocol < 0)
		return -1;
	cursor->at = (void *)ip + ipv4_length(ip);
	*header = ip;
	return protocol;
}

/* The next header, or −1. */
static __always_inline int parse_ipv6(struct cursor *cursor, struct ipv6_header **header)
{
	struct ipv6_header *ip = cursor->at;

	if ((void *)(ip + 1) > cursor->end || (ip->version & be32(0xf0000000)) != be32(0x60000000))
		return -1;
	cursor->at = ip + 1;
	*header = ip;
	return ip->next;
}

static __always_inline __u32 ipv6_total(const struct ipv6_header *ip)
{
	return sizeof(*ip) + host16(ip->length);
}

static __always_inline bool is_extension(int next)
{
	return next == IPV6_HOP_BY_HOP || next == IPV6_ROUTING || next == IPV6_DESTINATION;
}

/*
 * From the first extension header on: the protocol behind them, or −1. `fragment` is set when there is that header; behind
 * one of a later piece there is no other.
 */
static __always_inline int parse_extensions(struct cursor *cursor, int next, struct ipv6_fragment **fragment)
{
	int i;

#pragma unroll
	for (i = 0; i < IPV6_EXTENSIONS; i++) {
		struct ipv6_extension *extension = cursor->at;
		struct ipv6_fragment *piece = cursor->at;

		if (next == IPV6_FRAGMENT) {
			if ((void *)(piece + 1) > cursor->end || *fragment)
				return -1;
			*fragment = piece;
			cursor->at = piece + 1;
			next = piece->next;
			if (piece->offset & IPV6_OFFSET_BITS)
				return next;
			continue;
		}
		if (!is_extension(next))
			return next;
		if ((void *)(extension + 1) > cursor->end)
			return -1;
		next = extension->next;
		cursor->at += 8 + 8 * (__u32)extension->length;
	}
	return is_extension(next) || next == IPV6_FRAGMENT ? -1 : next;
}

/* 0, or −1. */
static __always_inline int parse_ports(struct cursor *cursor, struct port_pair **header)
{
	struct port_pair *pair = cursor->at;

	if ((void *)(pair + 1) > cursor->end)
		return -1;
	*header = pair;
	return 0;
}

/* The header length in bytes, or −1. */
static __always_inline int parse_tcp(struct cursor *cursor, struct tcphdr **header)
{
	struct tcphdr *tcp = cursor->at;

	if ((void *)(tcp + 1) > cursor->end || tcp->doff < 5)
		return -1;
	cursor->at = tcp + 1;
	*header = tcp;
	return tcp->doff * 4;
}

static __always_inline int parse_arp(struct cursor *cursor, struct arp_ipv4 **header)
{
	struct arp_ipv4 *arp = cursor->at;

	if ((void *)(arp + 1) > cursor->end)
		return -1;
	if (arp->hardware_type != be16(ARP_HEADER_TYPE_ETHER) || arp->protocol_type != be16(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return -1;
	cursor->at = arp + 1;
	*header = arp;
	return host16(arp->operation);
}

/* MACs stand at even offsets everywhere: three halves instead of six bytes. */
static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2])) == 0;
}

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	__u16 *x = (__u16 *)to;
	const __u16 *y = (const __u16 *)from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
}

/* ::ffff:a.b.c.d */
static __always_inline void map_ipv4(__u8 address[16], __be32 ipv4)
{
	__u32 *word = (__u32 *)address;

	word[0] = 0;
	word[1] = 0;
	word[2] = be32(0xffff);
	word[3] = ipv4;
}

static __always_inline __be32 unmap_ipv4(const __u8 address[16])
{
	return ((const __u32 *)address)[3];
}

static __always_inline bool is_mapped_ipv4(const __u8 address[16])
{
	const __u32 *word = (const __u32 *)address;

	return word[0] == 0 && word[1] == 0 && word[2] == be32(0xffff);
}

static __always_inline bool same_tuple(const struct tuple *a, const struct tuple *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

static __always_inline void invert(struct tuple *inverse, const struct tuple *tuple)
{
	__builtin_memcpy(inverse->saddr, tuple->daddr, 16);
	__builtin_memcpy(inverse->daddr, tuple->saddr, 16);
	inverse->sport = tuple->dport;
	inverse->dport = tuple->sport;
	inverse->protocol = tuple->protocol;
	inverse->family = tuple->family;
	inverse->zero = 0;
}

static __always_inline void tuple_ipv4(struct tuple *tuple, const struct iphdr *ip)
{
	map_ipv4(tuple->saddr, ip->saddr);
	map_ipv4(tuple->daddr, ip->daddr);
	tuple->family = 4;
	tuple->zero = 0;
}

static __always_inline void tuple_ipv6(struct tuple *tuple, const struct ipv6_header *ip)
{
	__builtin_memcpy(tuple->saddr, ip->saddr, 16);
	__builtin_memcpy(tuple->daddr, ip->daddr, 16);
	tuple->family = 6;
	tuple->zero = 0;
}

static __always_inline void tuple_transport(struct tuple *tuple, __u8 protocol, const struct port_pair *pair)
{
	tuple->protocol = protocol;
	tuple->sport = pair->source;
	tuple->dport = pair->destination;
}

static __always_inline void tuple_from_packet(struct tuple *tuple, const struct iphdr *ip, const struct tcphdr *tcp)
{
	tuple_ipv4(tuple, ip);
	tuple_transport(tuple, IPPROTO_TCP, (const struct port_pair *)tcp);
}

/* The sessions that can be shared: conntrack's functions for BPF know these only. */
static __always_inline bool is_shared_protocol(int protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* `about`, filled in with the addresses of the packet inside, becomes the tuple of those that take the error's way. */
static __always_inline int turn_error(struct cursor *cursor, int protocol, struct tuple *about)
{
	struct port_pair *pair;
	struct tuple inner;

	if (!is_shared_protocol(protocol) || parse_ports(cursor, &pair))
		return -1;
	inner = *about;
	tuple_transport(&inner, protocol, pair);
	invert(about, &inner);
	return 0;
}

/*
 * An ICMP error, from its own header on: 0, and the tuple of the packets that take the way the error takes — the packet
 * inside went the other way. 1: another ICMP message; −1: an error that does not tell what it is about.
 */
static __always_inline int parse_icmp_error(struct cursor *cursor, struct tuple *about)
{
	struct icmp_header *icmp = cursor->at;
	struct iphdr *inner;
	int protocol;

	if ((void *)(icmp + 1) > cursor->end)
		return -1;
	if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_QUENCH && icmp->type != ICMP_EXCEEDED &&
	    icmp->type != ICMP_PARAMETER)
		return 1;
	cursor->at = icmp + 1;
	protocol = parse_ipv4_options(cursor, &inner);
	if (protocol < 0 || (inner->frag_off & IPV4_OFFSET_BITS))
		return -1;
	tuple_ipv4(about, inner);
	return turn_error(cursor, protocol, about);
}

/* The same for ICMPv6. */
static __always_inline int parse_icmpv6_error(struct cursor *cursor, struct tuple *about)
{
	struct icmp_header *icmp = cursor->at;
	struct ipv6_fragment *piece = 0;
	struct ipv6_header *inner;
	int protocol;

	if ((void *)(icmp + 1) > cursor->end)
		return -1;
	if (icmp->type < ICMPV6_UNREACHABLE || icmp->type > ICMPV6_PARAMETER)
		return 1;
	cursor->at = icmp + 1;
	protocol = parse_ipv6(cursor, &inner);
	if (protocol < 0)
		return -1;
	protocol = parse_extensions(cursor, protocol, &piece);
	if (protocol < 0 || (piece && (piece->offset & IPV6_OFFSET_BITS)))
		return -1;
	tuple_ipv6(about, inner);
	return turn_error(cursor, protocol, about);
}

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* All flags at once: the header's bit fields would each be a load of their own. */
static __always_inline __u8 tcp_flags(const struct tcphdr *tcp)
{
	return ((const __u8 *)tcp)[13];
}

/* Those of the SYN that opens a session, not of its answer. */
static __always_inline bool opening(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

static __always_inline bool opens(const struct tcphdr *tcp)
{
	return opening(tcp_flags(tcp));
}

#endif
