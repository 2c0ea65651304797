// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * table_ops: the flow table's own functions, one operation a run, told by a list that user space writes and reads back.
 * For tests/bpf/test_flow_table.py; attached nowhere. `reader` looks tuples up as `steer` does, meanwhile, on another CPU.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "flow_insert.h"
#include "maps.h"

enum op_kind { OP_INSERT = 0, OP_LOOK_UP = 1, OP_TOUCH = 2, OP_END = 3 };
enum op_result { DONE = 1, KNOWN = 2, NO_RECORD = 3, NO_PLACE = 4, COLLISION = 5 };

struct op {
	__u32 kind;
	__u32 flow;
	__u32 reply;
	__u32 result;
};

struct reading {
	__u64 looked;
	__u64 hits;
	__u64 wrong; /* an entry whose owner is not that of the tuple, not marked exact */
	__u64 state; /* of the random numbers */
};

BPF_TABLE("array", __u32, struct op, ops, 1);
BPF_ARRAY(next_op, __u64, 1);
BPF_ARRAY(readings, struct reading, 1);

/* Both families, TCP and UDP; the reply is translated. */
static __always_inline void tuples_of(__u32 flow, struct tuple *original, struct tuple *reply)
{
	__builtin_memset(original, 0, sizeof(*original));
	original->family = flow & 1 ? 6 : 4;
	original->protocol = flow & 2 ? IPPROTO_UDP : IPPROTO_TCP;
	if (original->family == 4) {
		map_ipv4(original->saddr, be32(0x0a000000u + (flow >> 2)));
		map_ipv4(original->daddr, be32(0xc0000201u));
	} else {
		original->saddr[0] = original->daddr[0] = 0x20;
		original->saddr[7] = flow >> 16;
		original->saddr[14] = flow >> 10;
		original->saddr[15] = flow >> 2;
		original->daddr[15] = 1;
	}
	original->sport = be16(1024 + (flow & 0x3fff));
	original->dport = be16(443);
	*reply = *original;
	__builtin_memcpy(reply->saddr, original->daddr, 16);
	__builtin_memcpy(reply->daddr, original->saddr, 16);
	reply->sport = original->dport;
	reply->dport = be16(20000 + (flow & 0x3fff));
}

static __always_inline __u8 owner_of(__u32 flow)
{
	return 1 + flow % 63;
}

static __always_inline __u32 insert(const struct config *conf, __u32 flow, const struct tuple *original,
				    const struct tuple *reply)
{
	struct found found = {};
	struct record *record;
	__u32 index;

	if (find(conf, hash_tuple(conf, original), &found)) {
		record = record_of(found.word);
		if (record && !(found.word & ENTRY_REPLY) && is_exactly(found.word, record, original))
			return KNOWN;
	}
	index = take_record(conf);
	record = records.lookup(&index);
	if (!index || !record)
		return NO_RECORD;
	record->original = *original;
	record->reply = *reply;
	record->seen_ns = record->created_ns = bpf_ktime_get_coarse_ns();
	record->owner = owner_of(flow);
	/* Each state there is, for the counters' sake. */
	return insert_flow(conf, record, index, FLOW_SYN_SENT + flow % 5) ? NO_PLACE : DONE;
}

static __always_inline __u32 on_entry(const struct config *conf, __u32 kind, const struct tuple *tuple)
{
	struct found found = {};
	struct record *record;
	__u32 index;

	if (!find(conf, hash_tuple(conf, tuple), &found))
		return 0;
	record = record_of(found.word);
	if (!record || !is_exactly(found.word, record, tuple))
		return COLLISION;
	index = entry_record(found.word);
	if (kind == OP_LOOK_UP)
		return 0x100u | entry_owner(found.word);
	if (kind == OP_TOUCH) {
		change_word(found.at, index, 0, ENTRY_TOUCHED);
		return DONE;
	}
	end_flow(record, index);
	return DONE;
}

int table_op(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct tuple original, reply;
	int zero = 0;
	__u64 *at = next_op.lookup(&zero);
	struct op *op;
	__u32 index;

	if (!skb || !conf || !at)
		return TC_ACT_OK;
	index = *at;
	(*at)++;
	op = ops.lookup(&index);
	if (!op)
		return TC_ACT_OK;
	tuples_of(op->flow, &original, &reply);
	if (op->kind == OP_INSERT)
		op->result = insert(conf, op->flow, &original, &reply);
	else
		op->result = on_entry(conf, op->kind, op->reply ? &reply : &original);
	return TC_ACT_OK;
}

int reader(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct tuple original, reply;
	struct reading *reading;
	struct found found = {};
	int zero = 0;
	__u32 flow;

	reading = readings.lookup(&zero);
	if (!skb || !conf || !reading)
		return TC_ACT_OK;
	reading->state = reading->state * 6364136223846793005ull + 1442695040888963407ull;
	flow = reading->state >> 40 & 0xffff;
	tuples_of(flow, &original, &reply);
	reading->looked++;
	if (!find(conf, hash_tuple(conf, reading->state >> 63 ? &reply : &original), &found))
		return TC_ACT_OK;
	reading->hits++;
	if (entry_owner(found.word) != owner_of(flow) && !(found.word & ENTRY_EXACT))
		reading->wrong++;
	return TC_ACT_OK;
}
