/* Packets as they come: a pump runs, waits, and runs again, until it is woken.
 *
 * Readiness is asked for here and not by an event loop of the caller's: on a path that sleeps and wakes every 64 KiB
 * the way through an interpreter costs as much as a copy of the data does. So does a sleep itself, which ends with an
 * interrupt to another processor: as long as the work comes sooner than that pays, it is looked for instead, and the
 * processor is offered to others between two looks.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <sched.h>
#include <time.h>

#include "_batchio.h"

enum {
	BATCHES = 8, /* between two looks at the descriptor that wakes */
	LOOKS = 100, /* of about a microsecond each */
	SHORT_NS = 100 * 1000,
};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Wait for what @status asks for: more to read from @in, or room in @sock; not at all if there is more.
 *
 * @eager: whether the wait before was a short one; brought up to date
 * Return: whether to go on; false once @wake is readable
 */
static bool await_work(enum io_status status, int in, int sock, int wake, bool *eager)
{
	struct pollfd wanted[2] = {{.fd = wake, .events = POLLIN}, {.fd = in, .events = POLLIN}};
	if (status == IO_BLOCKED)
		wanted[1] = (struct pollfd){.fd = sock, .events = POLLOUT};
	int ready = 0;
	for (int i = 0; status == IO_DRAINED && *eager && i < LOOKS && ready == 0; i++) {
		sched_yield();
		ready = poll(wanted, 2, 0);
	}
	if (ready == 0) {
		const uint64_t begin = now_ns();
		poll(wanted, 2, status == IO_MORE ? 0 : -1); /* a signal ends it early: then the next run finds nothing */
		*eager = now_ns() - begin < SHORT_NS;
	}
	return wanted[0].revents == 0;
}

enum io_status io_encap_serve(struct io_encap *encap, const struct pump_table *table, int tun, int sock, int wake)
{
	enum io_status status;
	bool eager = false;
	do {
		status = io_encap_run(encap, table, tun, sock, BATCHES);
	} while (status != IO_FAILED && await_work(status, tun, sock, wake, &eager));
	return status;
}

enum io_status io_decap_serve(struct io_decap *decap, const struct pump_table *table, int tun, int sock, int wake)
{
	enum io_status status;
	bool eager = false;
	do {
		status = io_decap_run(decap, table, tun, sock, BATCHES);
	} while (status != IO_FAILED && await_work(status, sock, sock, wake, &eager));
	return status;
}
