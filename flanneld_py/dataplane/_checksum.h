/* The Internet checksum (RFC 1071), summed wide.
 *
 * A sum here is of 16-bit words as they lie in memory, so it is the same computation on either byte order (RFC 1071
 * section 2(B)), and a folded sum is stored with memcpy. An odd last byte counts as if a zero byte followed it.
 */
#ifndef FLANNELD_CHECKSUM_H
#define FLANNELD_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The ways to sum that were compiled in; every one gives the same folded result, and a test compares them. */
enum pump_sum_way { PUMP_SUM_PORTABLE, PUMP_SUM_AVX2, PUMP_SUM_WAYS };

/* Whether this processor can sum in that way. */
int pump_sum_available(enum pump_sum_way way);

/* As pump_sum(), in one named way; that way must be available. */
uint64_t pump_sum_by(enum pump_sum_way way, const uint8_t *bytes, size_t size);

/* The unfolded sum of a buffer of at most 2^31 bytes, by the fastest way there is. Sums of parts may be added when
 * every part but the last has an even size.
 */
uint64_t pump_sum(const uint8_t *bytes, size_t size);

/* The 16-bit one's complement sum, in memory order. Zero only if every word was zero. */
static inline uint16_t pump_fold(uint64_t sum)
{
	sum = (sum & 0xffffffffu) + (sum >> 32);
	sum = (sum & 0xffffffffu) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

#endif
