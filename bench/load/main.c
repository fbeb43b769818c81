#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

static const char usage[] =
	"usage: load serve ADDRESS\n"
	"       load tcp ADDRESS PORT SECONDS STREAMS\n"
	"       load udp ADDRESS PORT SECONDS BYTES PACKETS_PER_SECOND   (0: as fast as goes)\n"
	"       load rr ADDRESS PORT SECONDS MOST_REQUESTS apart|free    (0: no limit; apart: on two cores)\n"
	"       load connect ADDRESS PORT SECONDS\n";

_Noreturn void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void patience(int fd, int receive_ms, int send_ms)
{
	struct timeval receive = {receive_ms / 1000, receive_ms % 1000 * 1000};
	struct timeval send = {send_ms / 1000, send_ms % 1000 * 1000};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof(send)) < 0)
		die("setsockopt");
}

void big_buffers(int fd)
{
	int size = 32 << 20;

	/* Without CAP_NET_ADMIN the limit of the machine holds; what is lost by that is reported. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

void pin(int last)
{
	cpu_set_t allowed, chosen;
	size_t core = CPU_SETSIZE;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		die("sched_getaffinity");
	for (size_t i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &allowed) && (core == CPU_SETSIZE || last))
			core = i;
	CPU_ZERO(&chosen);
	CPU_SET(core, &chosen);
	if (sched_setaffinity(0, sizeof(chosen), &chosen) < 0)
		die("sched_setaffinity");
}

int connect_to(const struct sockaddr_in *to, int kind)
{
	int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	patience(fd, PATIENCE_S * 1000, PATIENCE_S * 1000);
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0)
		die("connect");
	return fd;
}

int bind_to(struct sockaddr_in *at, int kind)
{
	socklen_t size = sizeof(*at);
	int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	if (bind(fd, (struct sockaddr *)at, sizeof(*at)) < 0 ||
	    getsockname(fd, (struct sockaddr *)at, &size) < 0)
		die("bind");
	return fd;
}

int read_line(int fd, char line[LINE_MAX_BYTES])
{
	for (size_t used = 0; used < LINE_MAX_BYTES; used++) {
		if (recv(fd, line + used, 1, 0) != 1)
			return -1;
		if (line[used] == '\n') {
			line[used] = '\0';
			return 0;
		}
	}
	return -1;
}

int order(const struct sockaddr_in *server, const char *line, in_port_t *port)
{
	char answer[LINE_MAX_BYTES];
	int fd = connect_to(server, SOCK_STREAM);

	if (send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line))
		die("order");
	if (port != NULL) {
		if (read_line(fd, answer) < 0)
			die("the server's answer");
		*port = htons((in_port_t)strtoul(answer, NULL, 10));
	}
	return fd;
}

/* number - the value of a word; exits if it is no number or outside of its bounds */
static double number(const char *word, double least, double most)
{
	char *end;
	double value = strtod(word, &end);

	if (end == word || *end != '\0' || !(value >= least && value <= most)) {
		fprintf(stderr, "%s: a number from %g to %g is wanted\n", word, least, most);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	struct sockaddr_in peer = {.sin_family = AF_INET};
	const char *what = argc > 2 ? argv[1] : "";

	if (argc < 3 || inet_pton(AF_INET, argv[2], &peer.sin_addr) != 1) {
		fputs(usage, stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && strcmp(what, "serve") == 0)
		serve(peer);
	if (argc > 4) {
		double seconds = number(argv[4], 0.001, 3600);

		peer.sin_port = htons((in_port_t)number(argv[3], 1, 65535));
		if (argc == 6 && strcmp(what, "tcp") == 0)
			return send_stream(&peer, (unsigned)number(argv[5], 1, 64), seconds), 0;
		if (argc == 7 && strcmp(what, "udp") == 0)
			return send_datagrams(&peer, (size_t)number(argv[5], 1, DATAGRAM_MAX), seconds,
					      number(argv[6], 0, 1e9)), 0;
		if (argc == 7 && strcmp(what, "rr") == 0)
			return request_response(&peer, seconds, (unsigned)number(argv[5], 0, 4e9),
						strcmp(argv[6], "apart") == 0), 0;
		if (argc == 5 && strcmp(what, "connect") == 0)
			return connect_often(&peer, seconds), 0;
	}
	fputs(usage, stderr);
	return 2;
}
