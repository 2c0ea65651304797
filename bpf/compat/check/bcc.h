/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For tools/check-bpf.sh only: what bcc provides, as declarations, so that plain clang can look for mistakes that bcc's
 * compilation does not warn about. Nothing compiled with this is ever loaded.
 */
#ifndef AA_CHECK_BCC_H
#define AA_CHECK_BCC_H

#include "../include/linux/kconfig.h"
#include <linux/bpf.h>

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))

#define BPF_TABLE(kind, key_type, value_type, name, size) \
	struct name##_table { \
		value_type *(*lookup)(const key_type *); \
		int (*update)(const key_type *, const value_type *); \
		int (*insert)(const key_type *, const value_type *); \
		int (*delete)(const key_type *); \
	} __attribute__((unused)) name
#define BPF_ARRAY(name, value_type, size) BPF_TABLE("array", int, value_type, name, size)
#define BPF_QUEUE(name, value_type, size) \
	struct name##_queue { \
		int (*pop)(value_type *); \
		int (*push)(const value_type *, __u64); \
	} __attribute__((unused)) name
#define BPF_PROG_ARRAY(name, size) \
	struct name##_programs { \
		void (*call)(void *, int); \
	} __attribute__((unused)) name
#define BPF_RINGBUF_OUTPUT(name, pages) \
	struct name##_ring { \
		int (*ringbuf_output)(const void *, __u64, __u64); \
		void *(*ringbuf_reserve)(__u64); \
		void (*ringbuf_submit)(void *, __u64); \
		void (*ringbuf_discard)(void *, __u64); \
	} __attribute__((unused)) name

static long (*bpf_redirect)(__u32 ifindex, __u64 flags) __attribute__((unused)) = (void *)23;
static long (*bpf_clone_redirect)(struct __sk_buff *, __u32, __u64) __attribute__((unused)) = (void *)13;
static long (*bpf_skb_change_type)(struct __sk_buff *, __u32) __attribute__((unused)) = (void *)32;
static long (*bpf_skb_adjust_room)(struct __sk_buff *, __s32, __u32, __u64) __attribute__((unused)) = (void *)50;
static __s64 (*bpf_csum_diff)(__be32 *, __u32, __be32 *, __u32, __u32) __attribute__((unused)) = (void *)28;
static long (*bpf_l3_csum_replace)(struct __sk_buff *, __u32, __u64, __u64, __u64) __attribute__((unused)) = (void *)10;
static long (*bpf_l4_csum_replace)(struct __sk_buff *, __u32, __u64, __u64, __u64) __attribute__((unused)) = (void *)11;
static long (*bpf_skb_store_bytes)(struct __sk_buff *, __u32, const void *, __u32, __u64) __attribute__((unused)) =
	(void *)9;
static long (*bpf_skb_load_bytes)(const void *, __u32, void *, __u32) __attribute__((unused)) = (void *)26;
static long (*bpf_skb_pull_data)(struct __sk_buff *, __u32) __attribute__((unused)) = (void *)39;
static long (*bpf_skb_change_tail)(struct __sk_buff *, __u32, __u64) __attribute__((unused)) = (void *)38;
static long (*bpf_fib_lookup)(void *, struct bpf_fib_lookup *, int, __u32) __attribute__((unused)) = (void *)69;
static long (*bpf_probe_read_kernel)(void *, __u32, const void *) __attribute__((unused)) = (void *)113;
static __u32 (*bpf_get_prandom_u32)(void) __attribute__((unused)) = (void *)7;
static __u64 (*bpf_ktime_get_ns)(void) __attribute__((unused)) = (void *)5;
static __u64 (*bpf_ktime_get_coarse_ns)(void) __attribute__((unused)) = (void *)160;

#endif
