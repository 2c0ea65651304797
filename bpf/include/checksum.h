/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What appending or stripping the handoff block does to a checksum of TCP or UDP (RFC 1071, RFC 1624). */
#ifndef AA_CHECKSUM_H
#define AA_CHECKSUM_H

#include "block.h"

#define TCP_CHECKSUM_OFFSET(tcp) ((tcp) + (int)__builtin_offsetof(struct tcphdr, check))
#define UDP_CHECKSUM_OFFSET(udp) ((udp) + 6)
#define IPV4_CHECKSUM_OFFSET (ETH_HLEN + (int)__builtin_offsetof(struct iphdr, check))
#define IPV4_LENGTH_OFFSET (ETH_HLEN + (int)__builtin_offsetof(struct iphdr, tot_len))
#define IPV6_LENGTH_OFFSET (ETH_HLEN + (int)__builtin_offsetof(struct ipv6_header, length))

/*
 * The block's share of the sum. At an odd offset its bytes fall into the other halves of the 16-bit words, which
 * rotates the sum by eight bits.
 */
static __always_inline __u32 block_sum(struct handoff_block *block, bool appended, bool odd)
{
	__s64 sum;

	if (appended)
		sum = bpf_csum_diff(0, 0, (__be32 *)block, sizeof(*block), 0);
	else
		sum = bpf_csum_diff((__be32 *)block, sizeof(*block), 0, 0, 0);
	if (odd)
		sum = (__u32)sum << 8 | (__u32)sum >> 24;
	return sum;
}

#endif
