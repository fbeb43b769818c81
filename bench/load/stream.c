/* TCP: how much goes through, and how many connections a second. */
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { CHUNK = 128 << 10 };

struct stream {
	pthread_t thread;
	int fd;
	uint64_t end_ns;
	uint64_t bytes;
	unsigned retransmits;
	int error;
};

/* pour - send until the time is over, then wait until the other side has read everything */
static void *pour(void *argument)
{
	struct stream *stream = argument;
	char *chunk = calloc(1, CHUNK), byte;
	struct tcp_info info;
	socklen_t size = sizeof(info);

	if (chunk == NULL)
		die("calloc");
	while (now_ns() < stream->end_ns) {
		ssize_t sent = send(stream->fd, chunk, CHUNK, MSG_NOSIGNAL);

		if (sent < 0) {
			stream->error = errno;
			break;
		}
		stream->bytes += (uint64_t)sent;
	}
	free(chunk);
	shutdown(stream->fd, SHUT_WR);
	if (recv(stream->fd, &byte, 1, 0) < 0 && stream->error == 0)
		stream->error = errno;
	if (getsockopt(stream->fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
		stream->retransmits = info.tcpi_total_retrans;
	close(stream->fd);
	return NULL;
}

void send_stream(const struct sockaddr_in *server, unsigned streams, double seconds)
{
	struct stream *all = calloc(streams, sizeof(*all));
	unsigned long long bytes = 0, retransmits = 0;
	uint64_t begin;

	if (all == NULL)
		die("calloc");
	for (unsigned i = 0; i < streams; i++)
		all[i].fd = order(server, "stream\n", NULL);
	begin = now_ns();
	for (unsigned i = 0; i < streams; i++) {
		all[i].end_ns = begin + (uint64_t)(seconds * 1e9);
		errno = pthread_create(&all[i].thread, NULL, pour, &all[i]);
		if (errno != 0)
			die("pthread_create");
	}
	for (unsigned i = 0; i < streams; i++) {
		pthread_join(all[i].thread, NULL);
		if (all[i].error != 0) {
			errno = all[i].error;
			die("a stream broke");
		}
		bytes += all[i].bytes;
		retransmits += all[i].retransmits;
	}
	printf("{\"bytes\": %llu, \"seconds\": %.6f, \"retransmits\": %llu}\n", bytes,
	       (double)(now_ns() - begin) / 1e9, retransmits);
	free(all);
}

void connect_often(const struct sockaddr_in *target, double seconds)
{
	/* A reset at the end leaves no TIME_WAIT, which would use up the ports. */
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	unsigned long long made = 0, failed = 0;
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);

	while (now_ns() < end) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			die("socket");
		patience(fd, PATIENCE_S * 100, PATIENCE_S * 100);
		if (connect(fd, (const struct sockaddr *)target, sizeof(*target)) == 0)
			made++;
		else
			failed++;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	printf("{\"connections\": %llu, \"failed\": %llu, \"seconds\": %.6f}\n", made, failed,
	       (double)(now_ns() - begin) / 1e9);
}
