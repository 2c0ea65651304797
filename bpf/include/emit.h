/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a new session's SYN takes along: it lends its clone to the journal, so that no agent needs to wake (compose.bpf.c). */
#ifndef AA_EMIT_H
#define AA_EMIT_H

#include "journal.h"
#include "replica.h"

/* A frame costs as much as a dozen records in it: so many pend, or so long has none been sent (at 50,000 sessions a second). */
#ifndef AA_EMIT_AT
#define AA_EMIT_AT 8
#endif
#ifndef AA_EMIT_NS
#define AA_EMIT_NS 20000ull
#endif

/* Packet pointers are void afterwards. */
static __always_inline void emit_if_due(struct __sk_buff *skb, const struct config *conf)
{
	struct replication *state;
	__u64 pending;

	if (!(conf->features & AA_FEATURE_REPLICATE_AT_ONCE))
		return;
	state = replication_state();
	if (!state || !state->listeners)
		return;
	pending = journal_pending(state);
	if (!pending || (pending < AA_EMIT_AT && bpf_ktime_get_ns() < state->sent_ns + AA_EMIT_NS))
		return;
	skb->cb[0] = COMPOSE_SYN;
	bpf_clone_redirect(skb, conf->ha_ifindex, 0);
	skb->cb[0] = 0;
}

#endif
