/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The schedule (docs/scheduling.md): which node gets a new session. User space makes the table, whole and aside; here a
 * place in it is found. core/schedule.py makes it and is the same in Python.
 */
#ifndef AA_SCHEDULE_H
#define AA_SCHEDULE_H

#include "flow_state.h"
#include "maps.h"
#include "siphash.h"
#include "types.h"

#define SCHEDULE_LOOK_AHEAD 64 /* places looked at for a node that can be used */

static __always_inline __u64 draining_nodes(void)
{
	int zero = 0;
	__u64 *bits = draining.lookup(&zero);

	return bits ? *bits : 0;
}

/* Can it get a new session? One that left or drains cannot, though the schedule may still name it for a moment. */
static __always_inline bool is_usable(__u8 id, __u64 resting)
{
	const struct node *node = node_of(id & (AA_MAX_NODES - 1));

	return node && node->hop != HOP_NONE && !(resting >> (id & (AA_MAX_NODES - 1)) & 1);
}

static __always_inline __u64 hash_client(const struct config *conf, const struct tuple *session)
{
	__u64 address[2];

	__builtin_memcpy(address, session->saddr, sizeof(address));
	return siphash24(conf->source_key, address, 2);
}

static __always_inline const struct sequence *sequence_in_force(void)
{
	int zero = 0, which;
	__u32 *active = bank.lookup(&zero);

	if (!active)
		return 0;
	which = *active & 1;
	return sequences.lookup(&which);
}

/* The node at that place, or at the next one whose node can be used. */
static __always_inline __u8 node_from(const struct sequence *sequence, __u64 place, __u64 resting, __u8 otherwise)
{
	__u8 id;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < SCHEDULE_LOOK_AHEAD; i++) {
		id = sequence->node[(place + i) % sequence->length & (AA_SEQUENCE_CAPACITY - 1)];
		if (is_usable(id, resting))
			return id;
	}
	return otherwise;
}

/*
 * The node for which one flow more makes the fewest per weight; of equals, the first from `place` on. Products are
 * compared, so it is exact.
 */
static __always_inline __u8 least_loaded(const struct sequence *sequence, __u64 place, __u64 resting, __u8 otherwise)
{
	const struct tally *tally = tally_of_table();
	__u64 load, weight, best_load = 1, best_weight = 0; /* infinitely loaded */
	__u8 id, best = otherwise;
	__u32 i;

	if (!tally)
		return otherwise;
#pragma clang loop unroll(disable)
	for (i = 0; i < AA_MAX_NODES; i++) {
		if (i >= sequence->length)
			break;
		id = sequence->node[(place + i) % sequence->length & (AA_SEQUENCE_CAPACITY - 1)] & (AA_MAX_NODES - 1);
		if (!is_usable(id, resting))
			continue;
		load = tally->live[id] + 1;
		weight = sequence->weight[id];
		if (load * best_weight < best_load * weight) {
			best = id;
			best_load = load;
			best_weight = weight;
		}
	}
	return best;
}

/* Takes one turn of the schedule. */
static __always_inline __u8 next_owner(const struct config *conf, const struct tuple *session)
{
	const struct sequence *sequence = sequence_in_force();
	__u64 *turn, place, resting = draining_nodes();
	int zero = 0;

	turn = turns.lookup(&zero);
	if (!turn || !sequence || sequence->length == 0 || sequence->length > AA_SEQUENCE_CAPACITY)
		return conf->self;
	place = __sync_fetch_and_add(turn, 1);
	if (sequence->kind == SCHEDULE_SOURCE_HASH)
		place = hash_client(conf, session);
	else if (sequence->kind == SCHEDULE_RANDOM)
		place = bpf_get_prandom_u32();
	place %= sequence->length;
	if (sequence->kind == SCHEDULE_LEAST)
		return least_loaded(sequence, place, resting, conf->self);
	return node_from(sequence, place, resting, conf->self);
}

#endif
