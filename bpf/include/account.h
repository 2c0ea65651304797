/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets and bytes of each flow and direction, where accounting is on (docs/flow-table.md). A line of their own beside
 * the record, so that a table without them is as dense as ever. Packets of one direction may be on several CPUs at a
 * time (a NIC that spreads fragments elsewhere, a queue that moved), so each number is added to atomically: none is ever
 * lost. The two numbers of a direction are two words; who reads between the two additions sees a packet without its bytes.
 */
#ifndef AA_ACCOUNT_H
#define AA_ACCOUNT_H

#include "flow_table.h"

static __always_inline bool accounting(const struct config *conf)
{
	return __builtin_expect(conf->features & AA_FEATURE_ACCOUNTING, 0);
}

/* `octets`: the packet's IP length, as its header has it. */
static __always_inline void account_for(__u32 index, bool reply, __u16 octets)
{
	struct account *account = accounts.lookup(&index);

	if (!account)
		return;
	__sync_fetch_and_add(&account->packets[reply], 1);
	__sync_fetch_and_add(&account->octets[reply], octets);
}

/* A packet of the flow whose entry this is. */
static __always_inline void account(const struct config *conf, __u64 word, __u16 octets)
{
	if (accounting(conf))
		account_for(entry_record(word), word & ENTRY_REPLY, octets);
}

/* A number given out anew, before its entries stand: nobody else counts on it. Its first packet is one of the original. */
static __always_inline void open_account(const struct config *conf, __u32 index, __u16 octets)
{
	struct account *account;

	if (!accounting(conf))
		return;
	account = accounts.lookup(&index);
	if (!account)
		return;
	account->packets[FLOW_ORIGINAL] = 1;
	account->octets[FLOW_ORIGINAL] = octets;
	account->packets[FLOW_REPLY] = account->octets[FLOW_REPLY] = 0;
}

#endif
