// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * decide_ops: what `handoff` and `steer` do with the first and the later packets of a session, one packet a run, told by a
 * list that user space writes and reads back. For tests/bpf/decisions; attached nowhere.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "assign.h"
#include "maps.h"

enum op_kind { OP_SYN = 0, OP_PACKET = 1 };

struct op {
	struct tuple original;
	struct tuple reply;
	__u32 kind;
	__u32 connmark;
	__u32 mark;
	__u32 slot;
	__u32 reversed; /* OP_PACKET: of the reply direction */
	__u32 flags;    /* OP_PACKET: TCP_* */
	__u32 owner;    /* out: 0 when the session has no record */
	__u32 why;      /* out: enum reason */
};

BPF_TABLE("array", __u32, struct op, ops, 1);
BPF_ARRAY(next_op, __u64, 1);

static __always_inline void syn(const struct config *conf, struct op *op)
{
	struct decision decision = {.connmark = op->connmark};
	struct request request = {.connmark = op->connmark, .mark = op->mark, .slot = op->slot};
	struct assignment assigned;

	decision.original = op->original;
	decision.reply = op->reply;
	decision.hash = hash_tuple(conf, &op->original);
	assigned = assign(conf, &decision, &request);
	op->owner = assigned.owner;
	op->why = assigned.why;
}

static __always_inline void packet(const struct config *conf, struct op *op)
{
	struct found found = {};
	struct record *record;
	struct tuple tuple;

	tuple = op->reversed ? op->reply : op->original;
	if (!find(conf, hash_tuple(conf, &tuple), &found))
		return;
	record = record_of(found.word);
	if (!record || !is_exactly(found.word, record, &tuple))
		return;
	op->why = advance(record, entry_record(found.word), found.word & ENTRY_REPLY, op->flags);
	op->owner = entry_owner(found.word);
}

int decide_op(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct op *op;
	int zero = 0;
	__u64 *at;
	__u32 index;

	at = next_op.lookup(&zero);
	if (!skb || !conf || !at)
		return TC_ACT_OK;
	index = __sync_fetch_and_add(at, 1);
	op = ops.lookup(&index);
	if (!op)
		return TC_ACT_OK;
	if (op->kind == OP_SYN)
		syn(conf, op);
	else
		packet(conf, op);
	return TC_ACT_OK;
}
