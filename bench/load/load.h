/* A generator of load between two pods: one process answers (`serve`), one sends (`send`, `rr`, `connect`).
 *
 * The sender opens a TCP connection to the server for each measurement and writes one line that says what it wants;
 * the end of that connection ends the measurement. So the server needs no orders from elsewhere, and may run all day.
 */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

enum { DATAGRAM_MAX = 2048, BATCH = 64, LINE_MAX_BYTES = 64 };

/* How long silence is, for a server that waits for what may still come. */
enum { SILENCE_MS = 100 };

/* Sockets give up after this, so that no process waits for ever. */
enum { PATIENCE_S = 10 };

/* die - one line on stderr with errno's text, then exit 1
 * @what: what failed
 */
_Noreturn void die(const char *what);

/* now_ns - nanoseconds of the monotonic clock */
uint64_t now_ns(void);

/* connect_to - a connected socket; dies if that fails
 * @kind: SOCK_STREAM or SOCK_DGRAM
 */
int connect_to(const struct sockaddr_in *to, int kind);

/* bind_to - a socket bound to the address; dies if that fails
 * @at: the port is filled in where it was 0
 */
int bind_to(struct sockaddr_in *at, int kind);

/* patience - give the socket's blocking calls a limit in milliseconds */
void patience(int fd, int receive_ms, int send_ms);

/* big_buffers - as much socket buffer as the kernel gives, so that the generator is not what loses packets */
void big_buffers(int fd);

/* pin - keep the calling thread on the first core that it may use, or on the last
 *
 * The ends of a path are two machines; where both run on one core of one machine, the scheduler saves half the trip.
 */
void pin(int last);

/* order - connect to the server and say what is wanted
 * @line: the wish, with its newline
 * @port: where to store the port that the server opened for it; NULL if the wish opens none
 *
 * Return: the connection; closing its sending side ends the measurement
 */
int order(const struct sockaddr_in *server, const char *line, in_port_t *port);

/* read_line - one line from a stream socket, without its newline
 *
 * Return: 0, or -1 if the stream ended or the line is too long
 */
int read_line(int fd, char line[LINE_MAX_BYTES]);

/* serve - answer for ever; prints the port for orders and the port for bare connections */
_Noreturn void serve(struct sockaddr_in at);

/* The measurements; each prints one line of JSON. */
void send_stream(const struct sockaddr_in *server, unsigned streams, double seconds);
void send_datagrams(const struct sockaddr_in *server, size_t size, double seconds, double rate);
void request_response(const struct sockaddr_in *server, double seconds, unsigned most, int apart);
void connect_often(const struct sockaddr_in *target, double seconds);

#endif
