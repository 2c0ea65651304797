/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ARP relay (docs/arp-relay.md): what its four programs and the guard share. */
#ifndef AA_ARP_H
#define AA_ARP_H

#include "maps.h"
#include "parse.h"
#include "rewrite.h"

/* In skb->mark from the moment an auxiliary accepts a 202 until its guard lets the reply in; no frame comes off a wire
 * with a mark. */
#define ARP_ACCEPTED_MARK 0x41415250

#ifndef AA_QUESTION_OPEN_NS
#define AA_QUESTION_OPEN_NS (3 * AA_NSEC_PER_SEC) /* the kernel gives up after three probes, a second apart */
#endif

#define QUESTION_COPY_NS (AA_NSEC_PER_SEC / 10) /* what a node asks again sooner is the copy of its 201 */
#define ANSWERED 0                               /* auxiliary, in `asker`: no node has this number */

#define ARP_AT(field) (ETH_HLEN + (int)__builtin_offsetof(struct arp_ipv4, field))

/* In a 201 the target hardware address, unknown by nature, carries who asks and for which interface. */
#define ASKER_BYTE 4
#define SLOT_BYTE 5

static __always_inline void question_key_init(struct question_key *key, __u32 slot, __be32 target)
{
	map_ipv4(key->target, target);
	key->slot = slot;
}

static __always_inline bool is_open(const struct question *question, __u64 now)
{
	return question && now - question->asked_ns < AA_QUESTION_OPEN_NS;
}

/* Operation, sender and target of an ARP frame, in one store. */
static __always_inline int write_arp(struct __sk_buff *skb, __u16 operation, const __u8 *sender_mac, __be32 sender_ip,
				     const __u8 *target_mac, __be32 target_ip)
{
	struct arp_ipv4 arp = {
		.hardware_type = be16(ARP_HEADER_TYPE_ETHER),
		.protocol_type = be16(ETH_P_IP),
		.hardware_length = 6,
		.protocol_length = 4,
		.operation = be16(operation),
		.sender_ip = sender_ip,
		.target_ip = target_ip,
	};

	__builtin_memcpy(arp.sender_mac, sender_mac, 6);
	__builtin_memcpy(arp.target_mac, target_mac, 6);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &arp, sizeof(arp), 0);
}

#endif
