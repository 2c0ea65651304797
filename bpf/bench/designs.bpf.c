// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Flow tables that were tried (docs/flow-table.md, "What else was tried"). Every program does the same: parse, look the
 * flow up in one design of table, rewrite two MACs, send back. They differ in the look-up alone; `design_none` has none.
 * Filled by tools/bench/designs.py; never loaded by the product.
 */
#include <linux/bpf.h>

#include "flow_table.h"
#include "maps.h"
#include "parse.h"

struct whole_value {
	__u8 rest[68];
	__u32 owner;
};

struct compact_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
};

/* Four entries a line: 64 bits of fingerprint, 64 of everything else. */
struct wide_bucket {
	__u64 fingerprint[4];
	__u64 entry[4];
};

BPF_TABLE("hash", struct tuple, struct whole_value, design_whole, 1);
BPF_TABLE("lru_hash", struct tuple, struct whole_value, design_lru, 1);
BPF_TABLE("hash", struct compact_key, __u64, design_compact, 1);
BPF_TABLE("array", __u32, struct wide_bucket, design_wide, 1);
BPF_TABLE("array", __u32, struct bucket, design_words, 1);

struct packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct tcphdr *tcp;
};

static __always_inline bool parse(struct xdp_md *ctx, struct packet *packet)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};

	return parse_ethernet(&cursor, &packet->eth) == be16(ETH_P_IP) &&
	       parse_ipv4(&cursor, &packet->ip) == IPPROTO_TCP && packet->ip->ihl == 5 &&
	       !(packet->ip->frag_off & IPV4_FRAGMENT_BITS) && parse_tcp(&cursor, &packet->tcp) > 0 &&
	       !(tcp_flags(packet->tcp) & TCP_SYN);
}

static __always_inline int send(struct packet *packet, __u32 owner)
{
	const struct node *node = node_of(owner);

	copy_mac(packet->eth->h_source, node->ha_mac);
	copy_mac(packet->eth->h_dest, mac_of(node, 0));
	count(STEER_TX);
	return XDP_TX;
}

static __always_inline struct hash hash_packet(const struct packet *packet)
{
	return hash_ipv4(configuration(), packet->ip->saddr, packet->ip->daddr, *(__be32 *)packet->tcp,
			 4 << 8 | IPPROTO_TCP);
}

int design_none(struct xdp_md *ctx)
{
	struct packet packet;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	return send(&packet, 2);
}

int design_hash_whole(struct xdp_md *ctx)
{
	struct whole_value *found;
	struct packet packet;
	struct tuple tuple;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	tuple_from_packet(&tuple, packet.ip, packet.tcp);
	found = design_whole.lookup(&tuple);
	return found ? send(&packet, found->owner) : XDP_PASS;
}

int design_hash_lru(struct xdp_md *ctx)
{
	struct whole_value *found;
	struct packet packet;
	struct tuple tuple;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	tuple_from_packet(&tuple, packet.ip, packet.tcp);
	found = design_lru.lookup(&tuple);
	return found ? send(&packet, found->owner) : XDP_PASS;
}

int design_hash_compact(struct xdp_md *ctx)
{
	struct compact_key key;
	struct packet packet;
	__u64 *found;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	key.saddr = packet.ip->saddr;
	key.daddr = packet.ip->daddr;
	key.sport = packet.tcp->source;
	key.dport = packet.tcp->dest;
	found = design_compact.lookup(&key);
	return found ? send(&packet, *found) : XDP_PASS;
}

static __always_inline __u64 search_wide(__u32 bucket, __u64 fingerprint)
{
	struct wide_bucket *line = design_wide.lookup(&bucket);
	int i;

	if (!line)
		return 0;
#pragma unroll
	for (i = 0; i < 4; i++)
		if (line->fingerprint[i] == fingerprint)
			return line->entry[i];
	return 0;
}

int design_line_of_four(struct xdp_md *ctx)
{
	__u32 mask = configuration()->bucket_mask << 1 | 1; /* half as many a line, so twice as many lines */
	struct packet packet;
	struct hash hash;
	__u64 fingerprint, entry;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	hash = hash_packet(&packet);
	fingerprint = (__u64)hash.bucket << 32 | hash.fingerprint;
	entry = search_wide(hash.bucket & mask, fingerprint);
	if (!entry)
		entry = search_wide((hash.bucket ^ (hash.fingerprint | 1)) & mask, fingerprint);
	return entry ? send(&packet, entry) : XDP_PASS;
}

/* No branch an entry: all eight are compared, and the one that matches is what is left. */
static __always_inline __u64 search_words(__u32 bucket, __u32 fingerprint)
{
	struct bucket *line = design_words.lookup(&bucket);
	__u64 word, chosen = 0;
	int i;

	if (!line)
		return 0;
#pragma unroll
	for (i = 0; i < BUCKET_ENTRIES; i++) {
		word = line->word[i];
		chosen |= word & (0 - (((word >> 32 ^ fingerprint) - 1) >> 63));
	}
	return chosen;
}

int design_line_of_eight_branchless(struct xdp_md *ctx)
{
	const struct config *conf = configuration();
	struct packet packet;
	struct hash hash;
	__u64 word;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	hash = hash_packet(&packet);
	word = search_words(hash.bucket & conf->bucket_mask, hash.fingerprint);
	if (!word)
		word = search_words(other_bucket(conf, hash.bucket & conf->bucket_mask, hash.fingerprint),
				    hash.fingerprint);
	return word ? send(&packet, entry_owner(word)) : XDP_PASS;
}

static __always_inline __u64 first_match(__u32 bucket, __u32 fingerprint)
{
	struct bucket *line = design_words.lookup(&bucket);
	int i;

	if (!line)
		return 0;
#pragma unroll
	for (i = 0; i < BUCKET_ENTRIES; i++)
		if (line->word[i] >> 32 == fingerprint)
			return line->word[i];
	return 0;
}

int design_line_of_eight(struct xdp_md *ctx)
{
	const struct config *conf = configuration();
	struct packet packet;
	struct hash hash;
	__u64 word;

	if (!parse(ctx, &packet))
		return XDP_PASS;
	hash = hash_packet(&packet);
	word = first_match(hash.bucket & conf->bucket_mask, hash.fingerprint);
	if (!word)
		word = first_match(other_bucket(conf, hash.bucket & conf->bucket_mask, hash.fingerprint),
				   hash.fingerprint);
	return word ? send(&packet, entry_owner(word)) : XDP_PASS;
}
