/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What appending or stripping the handoff block does to a TCP checksum (RFC 1071, RFC 1624). */
#ifndef AA_CHECKSUM_H
#define AA_CHECKSUM_H

#include "block.h"

#define TCP_CHECKSUM_OFFSET(tcp) ((tcp) + (int)__builtin_offsetof(struct tcphdr, check))
#define IPV4_CHECKSUM_OFFSET (ETH_HLEN + (int)__builtin_offsetof(struct iphdr, check))
#define IPV4_LENGTH_OFFSET (ETH_HLEN + (int)__builtin_offsetof(struct iphdr, tot_len))

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

/*
 * Right for complete checksums and for CHECKSUM_PARTIAL: in the latter the field holds the pseudo-header's sum only,
 * so the length is replaced with BPF_F_PSEUDO_HDR and the payload, summed later by the device, is left alone. `tcp` is
 * where the TCP header begins in the frame.
 */
static __always_inline int fix_lengths(struct __sk_buff *skb, int tcp, __be16 old_total, __be16 new_total, __be16 old_tcp,
				       __be16 new_tcp, __u32 payload_sum)
{
	if (bpf_l3_csum_replace(skb, IPV4_CHECKSUM_OFFSET, old_total, new_total, 2) ||
	    bpf_skb_store_bytes(skb, IPV4_LENGTH_OFFSET, &new_total, 2, 0) ||
	    bpf_l4_csum_replace(skb, TCP_CHECKSUM_OFFSET(tcp), old_tcp, new_tcp, BPF_F_PSEUDO_HDR | 2) ||
	    bpf_l4_csum_replace(skb, TCP_CHECKSUM_OFFSET(tcp), 0, payload_sum, 0))
		return -1;
	return 0;
}

#endif
