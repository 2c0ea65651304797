/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Persistence (docs/scheduling.md): a client keeps its node until no session of its has begun for the idle time. The least
 * recently used binding gives way when the map is full. core/persistence.py is the same in Python.
 */
#ifndef AA_PERSIST_H
#define AA_PERSIST_H

#include "flow_state.h"
#include "maps.h"
#include "schedule.h"
#include "types.h"

static __always_inline void client_of(const struct config *conf, const struct tuple *session, struct client *client)
{
	const __u64 *mask = (const __u64 *)(session->family == 4 ? conf->persist_v4 : conf->persist_v6);
	const __u64 *address = (const __u64 *)session->saddr;
	__u64 *out = (__u64 *)client->address;

	out[0] = address[0] & mask[0];
	out[1] = address[1] & mask[1];
}

/* The client's node, or 0: it has none, was away too long, or its node can get no new session. */
static __always_inline __u8 recall(const struct config *conf, struct client *client)
{
	const struct sequence *sequence = sequence_in_force();
	struct tally *tally = tally_of_table();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct binding *binding;
	__u8 id = 0;

	if (!tally || !sequence)
		return 0;
	binding = bindings.lookup(client);
	if (binding && now < binding->seen_ns + conf->persist_idle_ns)
		id = binding->node & (AA_MAX_NODES - 1);
	if (!id || !(sequence->members >> id & 1) || !is_usable(id, draining_nodes())) {
		__sync_fetch_and_add(&tally->persist_misses, 1);
		return 0;
	}
	binding->seen_ns = now;
	__sync_fetch_and_add(&tally->persist_hits, 1);
	return id;
}

static __always_inline void remember(struct client *client, __u8 node)
{
	struct binding binding = {.seen_ns = bpf_ktime_get_coarse_ns(), .node = node};

	bindings.update(client, &binding);
}

/* The owner of a session that is shared. */
static __always_inline __u8 choose(const struct config *conf, const struct tuple *session)
{
	struct client client;
	__u8 owner;

	if (!conf->persist_idle_ns)
		return next_owner(conf, session);
	client_of(conf, session, &client);
	owner = recall(conf, &client);
	if (!owner) {
		owner = next_owner(conf, session);
		remember(&client, owner);
	}
	return owner;
}

#endif
