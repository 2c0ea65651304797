/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stands in for the kernel's own kconfig.h, which bcc includes before everything else: fixed-width types and nothing more. */
#ifndef AA_COMPAT_KCONFIG_H
#define AA_COMPAT_KCONFIG_H

#define CONFIG_BPF_SYSCALL 1
#define PAGE_SIZE 4096

#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef _Bool bool;
#define true 1
#define false 0

#endif
