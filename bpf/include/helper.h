/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The conntrack helper of an entry, read out of its extensions (net/netfilter/nf_conntrack_helper.h). An extension stands
 * at an offset known only at run time, where a plain load is not allowed: all behind it is read by bpf_probe_read_kernel.
 */
#ifndef AA_HELPER_H
#define AA_HELPER_H

#include "block.h"
#include "conntrack.h"

#ifndef AA_CT_EXT_OFFSETS /* only so that a plain syntax check can read this file */
#define AA_CT_EXT_OFFSETS 0
#define AA_CT_HELP_HELPER 0
#define AA_CT_HELP_EXPECTATIONS 8
#define AA_CT_HELPER_NAME 16
#endif

#define CT_EXT_HELPER 0 /* NF_CT_EXT_HELPER, the first of enum nf_ct_ext_id in every kernel */

/* The entry's struct nf_conn_help, as a kernel address to read behind; 0: it has no helper extension. */
static __always_inline __u64 ct_help_of(struct nf_conn *ct)
{
	void *ext = ct_field(ct, void *, AA_CT_EXT);
	__u64 help = (__u64)ext;
	__u8 offset;

	if (!ext)
		return 0;
	offset = ct_field(ext, __u8, AA_CT_EXT_OFFSETS + CT_EXT_HELPER);
	return offset ? help + offset : 0;
}

/* A pointer that stands `offset` bytes behind a kernel address; 0 when it cannot be read. */
static __always_inline __u64 kernel_pointer(__u64 base, __u32 offset)
{
	__u64 pointer = 0;

	if (bpf_probe_read_kernel(&pointer, sizeof(pointer), (const void *)(base + offset)))
		return 0;
	return pointer;
}

/* HELPER_*. An extension without a helper (an expectation may leave one) counts as none. */
static __always_inline __u8 ct_helper(struct nf_conn *ct)
{
	__u64 help = ct_help_of(ct), helper;
	char name[8] = {}; /* as much of it as tells the ones we know from all others */

	if (!help)
		return HELPER_NONE;
	helper = kernel_pointer(help, AA_CT_HELP_HELPER);
	if (!helper)
		return HELPER_NONE;
	if (bpf_probe_read_kernel(name, sizeof(name), (const void *)(helper + AA_CT_HELPER_NAME)))
		return HELPER_NOT_SHARED;
	if (name[0] == 'f' && name[1] == 't' && name[2] == 'p' && name[3] == 0)
		return HELPER_FTP;
	return HELPER_NOT_SHARED;
}

#endif
