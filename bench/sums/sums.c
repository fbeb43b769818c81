/* How fast is each way to sum a packet? Prints one line of JSON: bytes a second by way, best of some rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "_checksum.h"

enum { REPEATS = 2000, ROUNDS = 25 };

static const char *const names[PUMP_SUM_WAYS] = {[PUMP_SUM_PORTABLE] = "portable C", [PUMP_SUM_AVX2] = "AVX2"};

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	size_t size = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	uint8_t *bytes = size > 0 ? malloc(size) : NULL;
	uint64_t sum = 0;
	const char *separator = "";

	if (bytes == NULL) {
		fputs("usage: sums BYTES\n", stderr);
		return 2;
	}
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i * 131);
	putchar('{');
	for (int way = 0; way < PUMP_SUM_WAYS; way++) {
		double best = 0;

		if (!pump_sum_available((enum pump_sum_way)way))
			continue;
		for (int round = 0; round < ROUNDS; round++) {
			double begin = now_s(), speed;

			for (int repeat = 0; repeat < REPEATS; repeat++)
				sum += pump_sum_by((enum pump_sum_way)way, bytes, size);
			speed = (double)size * REPEATS / (now_s() - begin);
			if (speed > best)
				best = speed;
		}
		printf("%s\"%s\": %.0f", separator, names[way], best);
		separator = ", ";
	}
	puts("}");
	free(bytes);
	/* Nobody wants the sum, but a compiler may leave out what nobody looks at. */
	return sum == 0;
}
