/* UDP: packets delivered, at full or at a fixed rate, and the time that a request and its response take. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

/* At a fixed rate packets leave in small groups this often, as timers allow. */
enum { TICK_NS = 500000 };
enum { REQUEST_BYTES = 64, RESPONSE_MS = 100, SAMPLES_MOST = 1 << 22 };

static void sleep_until(uint64_t when_ns)
{
	struct timespec when = {(time_t)(when_ns / 1000000000u), (long)(when_ns % 1000000000u)};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL);
}

/* send_some - hand some datagrams to the kernel
 *
 * Return: how many it took; a refusal (a full queue, an ICMP error for an earlier one) counts as not sent
 */
static unsigned send_some(int fd, struct mmsghdr *messages, unsigned wanted)
{
	int sent = sendmmsg(fd, messages, wanted, MSG_NOSIGNAL);

	if (sent >= 0)
		return (unsigned)sent;
	if (errno != ENOBUFS && errno != ECONNREFUSED && errno != EAGAIN && errno != EHOSTUNREACH && errno != EMSGSIZE)
		die("send");
	return 0;
}

void send_datagrams(const struct sockaddr_in *server, size_t size, double seconds, double rate)
{
	static char data[DATAGRAM_MAX];
	struct iovec vector = {data, size};
	struct mmsghdr messages[BATCH];
	struct sockaddr_in target = *server;
	unsigned long long sent = 0, timely = 0, total = 0;
	unsigned lost_at_sink = 0;
	char line[LINE_MAX_BYTES];
	uint64_t begin, now, end;
	int control, fd;

	snprintf(line, sizeof(line), "count %u\n", (unsigned)(seconds * 1000));
	control = order(server, line, &target.sin_port);
	fd = connect_to(&target, SOCK_DGRAM);
	memset(messages, 0, sizeof(messages));
	for (size_t i = 0; i < BATCH; i++) {
		messages[i].msg_hdr.msg_iov = &vector;
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	begin = now_ns();
	end = begin + (uint64_t)(seconds * 1e9);
	for (now = begin; now < end; now = now_ns()) {
		double due = rate > 0 ? rate * (double)(now - begin) / 1e9 - (double)sent : BATCH;

		if (due >= 1)
			sent += send_some(fd, messages, due < BATCH ? (unsigned)due : BATCH);
		if (due < BATCH)
			sleep_until(now + TICK_NS);
	}
	shutdown(control, SHUT_WR);
	if (read_line(control, line) < 0 || sscanf(line, "%llu %llu %u", &timely, &total, &lost_at_sink) != 3)
		die("the server's count");
	printf("{\"sent\": %llu, \"delivered\": %llu, \"timely\": %llu, \"sink_drops\": %u, \"seconds\": %.6f}\n", sent,
	       total, timely, lost_at_sink, (double)(now - begin) / 1e9);
}

static int ascending(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

	return (a > b) - (a < b);
}

/* exchange - one request and its response; a response to an earlier request is passed over
 *
 * Return: nanoseconds, or 0 if none came in time
 */
static uint64_t exchange(int fd, uint32_t serial)
{
	unsigned char request[REQUEST_BYTES] = {0}, response[DATAGRAM_MAX];
	uint64_t begin = now_ns();

	memcpy(request, &serial, sizeof(serial));
	if (send(fd, request, sizeof(request), MSG_NOSIGNAL) < 0 && errno != ECONNREFUSED && errno != ENOBUFS)
		die("send");
	for (;;) {
		ssize_t got = recv(fd, response, sizeof(response), 0);
		uint64_t now = now_ns();

		if (got == REQUEST_BYTES && memcmp(response, &serial, sizeof(serial)) == 0)
			return now - begin;
		if (got < 0 || now - begin > RESPONSE_MS * UINT64_C(1000000))
			return 0;
	}
}

void request_response(const struct sockaddr_in *server, double seconds, unsigned most, int apart)
{
	uint32_t *taken = malloc(SAMPLES_MOST * sizeof(*taken));
	struct sockaddr_in target = *server;
	unsigned asked = 0, answered = 0;
	uint64_t end;
	int control, fd;

	if (taken == NULL)
		die("malloc");
	if (most == 0 || most > SAMPLES_MOST)
		most = SAMPLES_MOST;
	if (apart)
		pin(0);
	control = order(server, apart ? "echo apart\n" : "echo free\n", &target.sin_port);
	fd = connect_to(&target, SOCK_DGRAM);
	patience(fd, RESPONSE_MS, RESPONSE_MS);
	end = now_ns() + (uint64_t)(seconds * 1e9);
	for (; asked < most && now_ns() < end; asked++) {
		uint64_t ns = exchange(fd, asked);

		if (ns > 0)
			taken[answered++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
	}
	close(control);
	qsort(taken, answered, sizeof(*taken), ascending);
	printf("{\"asked\": %u, \"answered\": %u", asked, answered);
	if (answered > 0)
		printf(", \"p50_us\": %.3f, \"p99_us\": %.3f", taken[answered / 2] / 2e3,
		       taken[(size_t)answered * 99 / 100] / 2e3);
	puts("}");
	free(taken);
}
