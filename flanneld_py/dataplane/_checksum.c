#include "_checksum.h"

#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_AVX2_WAY 1
#else
#define HAVE_AVX2_WAY 0
#endif

/* Below this a call with wider registers costs more than it saves. */
#define WIDE_FROM 128

typedef uint64_t lanes __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) uint64_t sum_tail(uint64_t sum, const uint8_t *bytes, size_t size)
{
	while (size >= 8) {
		uint64_t word;
		memcpy(&word, bytes, 8);
		sum += (word & 0xffffffffu) + (word >> 32);
		bytes += 8;
		size -= 8;
	}
	if (size >= 4) {
		uint32_t word;
		memcpy(&word, bytes, 4);
		sum += word;
		bytes += 4;
		size -= 4;
	}
	if (size >= 2) {
		uint16_t word;
		memcpy(&word, bytes, 2);
		sum += word;
		bytes += 2;
		size -= 2;
	}
	if (size) {
		const uint8_t padded[2] = {bytes[0], 0};
		uint16_t word;
		memcpy(&word, padded, 2);
		sum += word;
	}
	return sum;
}

/* Written once with vector types and compiled for each instruction set. A lane grows by less than 2^34 for 64 bytes,
 * so it cannot overflow within the 2^31 bytes that are allowed.
 */
static inline __attribute__((always_inline)) uint64_t sum_lanes(const uint8_t *bytes, size_t size)
{
	const lanes low = {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu};
	lanes even = {0, 0, 0, 0};
	lanes odd = {0, 0, 0, 0};
	while (size >= 64) {
		lanes first, second;
		memcpy(&first, bytes, 32);
		memcpy(&second, bytes + 32, 32);
		even += (first & low) + (second & low);
		odd += (first >> 32) + (second >> 32);
		bytes += 64;
		size -= 64;
	}
	even += odd;
	return sum_tail(even[0] + even[1] + even[2] + even[3], bytes, size);
}

static uint64_t sum_portable(const uint8_t *bytes, size_t size)
{
	return sum_lanes(bytes, size);
}

#if HAVE_AVX2_WAY
__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint8_t *bytes, size_t size)
{
	return sum_lanes(bytes, size);
}
#endif

int pump_sum_available(enum pump_sum_way way)
{
#if HAVE_AVX2_WAY
	if (way == PUMP_SUM_AVX2)
		return __builtin_cpu_supports("avx2") != 0;
#endif
	return way == PUMP_SUM_PORTABLE;
}

uint64_t pump_sum_by(enum pump_sum_way way, const uint8_t *bytes, size_t size)
{
#if HAVE_AVX2_WAY
	if (way == PUMP_SUM_AVX2)
		return sum_avx2(bytes, size);
#endif
	(void)way;
	return sum_portable(bytes, size);
}

uint64_t pump_sum(const uint8_t *bytes, size_t size)
{
	if (size < WIDE_FROM)
		return sum_tail(0, bytes, size);
#if HAVE_AVX2_WAY
	if (__builtin_cpu_supports("avx2"))
		return sum_avx2(bytes, size);
#endif
	return sum_portable(bytes, size);
}
