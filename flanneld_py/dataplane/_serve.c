/* Packets as they come, both ways: the two pumps run in turn, wait, and run again, until they are woken.
 *
 * Readiness is asked for here and not by an event loop of the caller's: on a path that sleeps and wakes every 64 KiB
 * the way through an interpreter costs as much as a copy of the data does. One thread runs both pumps, since what comes
 * one way has its answer come the other way, on the same processor and a moment later: it is there without a wake-up.
 * A sleep ends with an interrupt to another processor, so as long as the work comes sooner than that pays, it is looked
 * for instead, and the processor is offered to others between two looks.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <sched.h>
#include <time.h>

#include "_batchio.h"

enum {
	BATCHES = 8, /* of one direction before the other one has its turn: some 1 MiB */
	TURNS = 4,   /* between two looks at the descriptor that wakes, while there is always more */
	LOOKS = 30,  /* of about a microsecond each */
	BULK_LOOKS = 3,
	BULK_BYTES = 16 * 1024, /* moved since the last wait: others have work to do, on this processor */
	SHORT_NS = 100 * 1000,
};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Wait until one of @wanted is ready.
 *
 * @eager: whether the wait before was a short one; brought up to date
 */
static void await_work(struct pollfd *wanted, nfds_t count, bool *eager, bool bulk)
{
	const int looks = !*eager ? 0 : bulk ? BULK_LOOKS : LOOKS;
	for (int i = 0; i < looks; i++) {
		sched_yield();
		if (poll(wanted, count, 0) != 0)
			return;
	}
	const uint64_t begin = now_ns();
	poll(wanted, count, -1); /* a signal ends it early: then the next turn finds nothing */
	*eager = now_ns() - begin < SHORT_NS;
}

int io_serve(struct io_encap *encap, const struct pump_table *outward, struct io_decap *decap,
             const struct pump_table *inward, int tun, int sock, int wake)
{
	struct pollfd wanted[] = {{.fd = wake, .events = POLLIN}, {.fd = sock}, {.fd = tun, .events = POLLIN}};
	bool eager = false;
	uint64_t before = 0;
	for (unsigned turn = 1;; turn++) {
		const enum io_status in = io_decap_run(decap, inward, tun, sock, BATCHES);
		if (in == IO_FAILED)
			return io_decap_failed(decap);
		const enum io_status out = io_encap_run(encap, outward, tun, sock, BATCHES);
		if (out == IO_FAILED)
			return io_encap_failed(encap);
		if (in != IO_MORE && out != IO_MORE) {
			wanted[1].events = out == IO_BLOCKED ? POLLIN | POLLOUT : POLLIN;
			wanted[2].fd = out == IO_BLOCKED ? -1 : tun;
			const uint64_t moved = io_encap_counters(encap)->bytes + io_decap_counters(decap)->bytes;
			await_work(wanted, 3, &eager, moved - before > BULK_BYTES);
			before = moved;
		} else if (turn % TURNS != 0) {
			continue;
		} else {
			poll(wanted, 1, 0);
		}
		if (wanted[0].revents != 0)
			return 0;
	}
}
