/* Packets as they come: a pump runs, waits, and runs again, until it is woken.
 *
 * Readiness is asked for here and not by an event loop of the caller's: on a path that sleeps and wakes every 64 KiB
 * the way through an interpreter costs as much as a copy of the data does.
 */
#include <poll.h>

#include "_batchio.h"

enum { BATCHES = 8 }; /* between two looks at the descriptor that wakes */

/* Wait for what @status asks for: more to read from @in, or room in @sock; not at all if there is more.
 *
 * Return: whether to go on; false once @wake is readable
 */
static bool await_work(enum io_status status, int in, int sock, int wake)
{
	struct pollfd wanted[2] = {{.fd = wake, .events = POLLIN}, {.fd = in, .events = POLLIN}};
	if (status == IO_BLOCKED)
		wanted[1] = (struct pollfd){.fd = sock, .events = POLLOUT};
	poll(wanted, 2, status == IO_MORE ? 0 : -1); /* a signal ends it early: then the next run finds nothing */
	return wanted[0].revents == 0;
}

enum io_status io_encap_serve(struct io_encap *encap, const struct pump_table *table, int tun, int sock, int wake)
{
	enum io_status status;
	do {
		status = io_encap_run(encap, table, tun, sock, BATCHES);
	} while (status != IO_FAILED && await_work(status, tun, sock, wake));
	return status;
}

enum io_status io_decap_serve(struct io_decap *decap, const struct pump_table *table, int tun, int sock, int wake)
{
	enum io_status status;
	do {
		status = io_decap_run(decap, table, tun, sock, BATCHES);
	} while (status != IO_FAILED && await_work(status, sock, sock, wake));
	return status;
}
