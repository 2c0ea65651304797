/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SipHash-2-4 (Aumasson and Bernstein, 2012) over whole 64-bit words. */
#ifndef AA_SIPHASH_H
#define AA_SIPHASH_H

struct sipstate {
	__u64 v0, v1, v2, v3;
};

static __always_inline __u64 rotate_left(__u64 word, unsigned int bits)
{
	return (word << bits) | (word >> (64 - bits));
}

static __always_inline void sipround(struct sipstate *s)
{
	s->v0 += s->v1;
	s->v1 = rotate_left(s->v1, 13) ^ s->v0;
	s->v0 = rotate_left(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate_left(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate_left(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate_left(s->v1, 17) ^ s->v2;
	s->v2 = rotate_left(s->v2, 32);
}

static __always_inline void sipword(struct sipstate *s, __u64 word)
{
	s->v3 ^= word;
	sipround(s);
	sipround(s);
	s->v0 ^= word;
}

static __always_inline struct sipstate sipbegin(const __u64 key[2])
{
	struct sipstate s = {
		.v0 = key[0] ^ 0x736f6d6570736575ull,
		.v1 = key[1] ^ 0x646f72616e646f6dull,
		.v2 = key[0] ^ 0x6c7967656e657261ull,
		.v3 = key[1] ^ 0x7465646279746573ull,
	};

	return s;
}

static __always_inline __u64 sipend(struct sipstate *s, unsigned int words)
{
	sipword(s, (__u64)words * 8 << 56);
	s->v2 ^= 0xff;
	sipround(s);
	sipround(s);
	sipround(s);
	sipround(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* `words` is a compile-time constant below 32; the result, stored little-endian, is the reference's eight bytes. */
static __always_inline __u64 siphash24(const __u64 key[2], const __u64 *message, unsigned int words)
{
	struct sipstate s = sipbegin(key);
	unsigned int i;

#pragma unroll
	for (i = 0; i < words; i++)
		sipword(&s, message[i]);
	return sipend(&s, words);
}

/* The same for up to `most` words, a compile-time constant; `words` is known at run time only. */
static __always_inline __u64 siphash24_long(const __u64 key[2], const __u64 *message, unsigned int words, unsigned int most)
{
	struct sipstate s = sipbegin(key);
	unsigned int i;

#pragma nounroll
	for (i = 0; i < most; i++) {
		if (i >= words)
			break;
		sipword(&s, message[i]);
	}
	return sipend(&s, words);
}

#endif
