// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * deliver: gives a SYN back to the interface it came in on, after the agent has made its conntrack entry (docs/helpers.md).
 * Attached nowhere: the agent runs it with BPF_PROG_TEST_RUN, the frame as its packet and the interface in its context.
 * Counts nothing: `adopt` sees the frame again, and counts it.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "delivered.h"

int deliver(struct __sk_buff *skb)
{
	skb->mark = DELIVERED_MARK;
	return bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS) ? TC_ACT_SHOT : TC_ACT_OK;
}
