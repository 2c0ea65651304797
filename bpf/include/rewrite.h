/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stores into a packet that more than one program makes. */
#ifndef AA_REWRITE_H
#define AA_REWRITE_H

static __always_inline int write_ethernet(struct __sk_buff *skb, const __u8 *to, const __u8 *from)
{
	__u8 macs[12];

	__builtin_memcpy(macs, to, 6);
	__builtin_memcpy(macs + 6, from, 6);
	return bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

#endif
