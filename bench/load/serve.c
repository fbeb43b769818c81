/* The answering side. A thread for each order, and one that only accepts connections, for the connect rate. */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

enum { STREAM_BUFFER = 256 << 10, BACKLOG = 4096, MEMINFO_WORDS = 9, MEMINFO_DROPS = 8 };

static struct sockaddr_in here;

/* over - whether the client closed its end of the connection that carries the order */
static int over(int control)
{
	char byte;
	ssize_t got = recv(control, &byte, 1, MSG_DONTWAIT);

	return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

/* open_for - a datagram socket for this order; its port goes to the client */
static int open_for(int control)
{
	struct sockaddr_in at = here;
	char line[LINE_MAX_BYTES];
	int fd;

	at.sin_port = 0;
	fd = bind_to(&at, SOCK_DGRAM);
	big_buffers(fd);
	patience(fd, SILENCE_MS, SILENCE_MS);
	snprintf(line, sizeof(line), "%u\n", (unsigned)ntohs(at.sin_port));
	send(control, line, strlen(line), MSG_NOSIGNAL);
	return fd;
}

/* swallow - read a stream to its end */
static void swallow(int control)
{
	char *buffer = malloc(STREAM_BUFFER);

	if (buffer == NULL)
		die("malloc");
	patience(control, PATIENCE_S * 1000, PATIENCE_S * 1000);
	while (recv(control, buffer, STREAM_BUFFER, 0) > 0)
		;
	free(buffer);
}

/* echo - send datagrams back until the order ends */
static void echo(int control)
{
	char data[DATAGRAM_MAX];
	int fd = open_for(control);

	for (;;) {
		struct sockaddr_in from;
		socklen_t length = sizeof(from);
		ssize_t got = recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&from, &length);

		if (got >= 0)
			sendto(fd, data, (size_t)got, 0, (struct sockaddr *)&from, length);
		else if (over(control))
			break;
	}
	close(fd);
}

/* count - count datagrams until the order ends and nothing comes any more
 * @window_ms: how long the client sends. What arrives later waited in a queue that was longer than the measurement, and
 *             says nothing of the rate at which the path delivers.
 */
static void count(int control, unsigned window_ms)
{
	static __thread char data[BATCH][DATAGRAM_MAX];
	struct iovec vectors[BATCH];
	struct mmsghdr messages[BATCH];
	unsigned long long total = 0, timely = 0;
	uint32_t memory[MEMINFO_WORDS] = {0};
	socklen_t length = sizeof(memory);
	uint64_t end = 0;
	char line[LINE_MAX_BYTES];
	int fd = open_for(control);

	memset(messages, 0, sizeof(messages));
	for (size_t i = 0; i < BATCH; i++) {
		vectors[i] = (struct iovec){data[i], DATAGRAM_MAX};
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);

		if (got > 0) {
			uint64_t now = now_ns();

			if (end == 0)
				end = now + window_ms * UINT64_C(1000000);
			total += (unsigned)got;
			if (now <= end)
				timely += (unsigned)got;
		} else if (over(control)) {
			break;
		}
	}
	getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length);
	close(fd);
	snprintf(line, sizeof(line), "%llu %llu %u\n", timely, total, memory[MEMINFO_DROPS]);
	send(control, line, strlen(line), MSG_NOSIGNAL);
}

/* answer - what one connection orders */
static void *answer(void *argument)
{
	int control = (int)(intptr_t)argument;
	char line[LINE_MAX_BYTES];
	unsigned window_ms;

	patience(control, PATIENCE_S * 1000, PATIENCE_S * 1000);
	if (read_line(control, line) == 0) {
		if (strcmp(line, "stream") == 0)
			swallow(control);
		else if (strcmp(line, "echo free") == 0)
			echo(control);
		else if (strcmp(line, "echo apart") == 0) {
			pin(1);
			echo(control);
		}
		else if (sscanf(line, "count %u", &window_ms) == 1)
			count(control, window_ms);
	}
	close(control);
	return NULL;
}

static void *accept_only(void *argument)
{
	int listener = (int)(intptr_t)argument;

	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

/* spawn - run a function in a thread that nobody waits for */
static void spawn(void *(*body)(void *), int fd)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, body, (void *)(intptr_t)fd);
	if (errno != 0)
		die("pthread_create");
	pthread_detach(thread);
}

/* listen_at - a listening socket on a free port of the address; the port is filled in */
static int listen_at(struct sockaddr_in *at)
{
	int fd = bind_to(at, SOCK_STREAM);

	if (listen(fd, BACKLOG) < 0)
		die("listen");
	return fd;
}

_Noreturn void serve(struct sockaddr_in at)
{
	struct sockaddr_in bare = at;
	int orders, listener;

	here = at;
	orders = listen_at(&at);
	listener = listen_at(&bare);
	spawn(accept_only, listener);
	printf("{\"orders\": %u, \"bare\": %u}\n", (unsigned)ntohs(at.sin_port), (unsigned)ntohs(bare.sin_port));
	fflush(stdout);
	for (;;) {
		int fd = accept4(orders, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			spawn(answer, fd);
	}
}
