/* The conversation with the node's daemon: flanneld_py/pods/exchange.py has the other half.
 *
 * One SOCK_SEQPACKET message each. Here: "flannel-cni 1", SOCKET=path and the CNI_ variables, each closed by a NUL,
 * one more NUL, the configuration; with descriptors. The daemon: 'B' it begins; then 'R' and what goes to standard
 * output, 'E' and an error document, or 'N' and a reason: nothing is changed, or no longer. 'N' may come first too.
 */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VERSION "flannel-cni 1"
#define SOCKET_NAME "cni.sock"
#define SUBNET_FILE "/run/flannel/subnet.env"

#define MAX_MESSAGE 65536
#define MAX_PATH 4096
#define BEGIN_MS 3000
#define ANSWER_MS 60000

enum descriptor { NETLINK, NAMESPACE, OWN_NAMESPACE, ROOT, CONF4, CONF6, DESCRIPTORS };

static char message[MAX_MESSAGE];

/* The end of a JSON string.
 * @at: the byte after the opening quote
 * @end: the end of the text
 * Return: the closing quote; NULL if there is none
 */
static const char *skip_string(const char *at, const char *end)
{
	for (; at < end; at++) {
		if (*at == '"')
			return at;
		if (*at == '\\')
			at++;
	}
	return NULL;
}

/* The next byte that JSON gives a meaning to.
 * @at: where to begin
 * @end: the end of the text
 * Return: the byte, or @end
 */
static const char *skip_blanks(const char *at, const char *end)
{
	while (at < end && strchr(" \t\r\n", *at) && *at)
		at++;
	return at;
}

/* The value of the configuration's own key "subnetFile".
 * @text: the configuration, of @size bytes
 * @path: filled with it, or with the default if there is no such key
 * The text is not checked: the daemon reads it too, and serves only if its
 * reading of the key led to its socket.
 * Return: whether there is no doubt
 */
static bool find_subnet_file(const char *text, size_t size, char path[MAX_PATH])
{
	static const char key[] = "subnetFile";
	const char *at = text, *end = text + size, *close;
	int depth = 0;

	strcpy(path, SUBNET_FILE);
	while ((at = skip_blanks(at, end)) < end) {
		char byte = *at++;
		bool found;

		if (byte == '{' || byte == '[')
			depth++;
		if (byte == '}' || byte == ']')
			depth--;
		if (byte != '"')
			continue;
		close = skip_string(at, end);
		if (close == NULL)
			return false;
		found = depth == 1 && (size_t)(close - at) == sizeof key - 1 && !memcmp(at, key, sizeof key - 1);
		at = skip_blanks(close + 1, end);
		if (!found || at == end || *at != ':')
			continue;
		at = skip_blanks(at + 1, end);
		if (at == end || *at != '"')
			return false;
		close = skip_string(++at, end);
		if (close == NULL || close == at || close - at >= MAX_PATH || memchr(at, '\\', (size_t)(close - at)) ||
		    memchr(at, '\0', (size_t)(close - at)))
			return false;
		memcpy(path, at, (size_t)(close - at));
		path[close - at] = '\0';
		at = close + 1;
	}
	return depth == 0;
}

/* The path of the daemon's socket, beside its subnet.env.
 * @path: filled with it
 * Return: whether there is no doubt
 */
static bool find_socket(const char *text, size_t size, char path[MAX_PATH + sizeof SOCKET_NAME])
{
	char *slash;

	if (!find_subnet_file(text, size, path))
		return false;
	slash = strrchr(path, '/');
	if (path[0] != '/' || slash == NULL)
		return false;
	strcpy(slash + 1, SOCKET_NAME);
	return true;
}

/* Whether two descriptors are of one namespace.
 * @one: a namespace's descriptor
 * @other: another
 */
static bool same_namespace(int one, int other)
{
	struct stat a, b;

	return fstat(one, &a) != 0 || fstat(other, &b) != 0 || (a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

/* All that the daemon needs and may not be able to open.
 * @fds: filled with the descriptors
 * Return: how many there are; 0 if some necessary one cannot be had
 */
static size_t open_descriptors(int fds[DESCRIPTORS])
{
	const char *netns = getenv("CNI_NETNS");
	size_t count = DESCRIPTORS;

	if (netns == NULL || netns[0] == '\0')
		return 0;
	fds[NAMESPACE] = open(netns, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	fds[OWN_NAMESPACE] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	fds[ROOT] = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fds[NAMESPACE] < 0 || fds[OWN_NAMESPACE] < 0 || fds[ROOT] < 0)
		return 0;
	if (same_namespace(fds[NAMESPACE], fds[OWN_NAMESPACE]) || setns(fds[NAMESPACE], CLONE_NEWNET) != 0)
		return 0;
	fds[NETLINK] = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	/* These two stay the pod's, from wherever they are used. */
	fds[CONF4] = open("/proc/sys/net/ipv4/conf", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds[CONF6] = open("/proc/sys/net/ipv6/conf", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (setns(fds[OWN_NAMESPACE], CLONE_NEWNET) != 0)
		fail("cannot return to the own network namespace", errno);
	if (fds[NETLINK] < 0 || fds[CONF4] < 0)
		return 0;
	if (fds[CONF6] < 0)	/* a kernel without IPv6 */
		count = CONF6;
	return count;
}

/* Append to the message, with a NUL after it.
 * @size: bytes in the message, which is made more
 * @name: first part
 * @value: second part, NULL for none
 * Return: whether there was room
 */
static bool add_text(size_t *size, const char *name, const char *value)
{
	size_t first = strlen(name), second = value ? strlen(value) : 0;

	if (first + second >= sizeof message - *size)
		return false;
	memcpy(message + *size, name, first);
	if (value)
		memcpy(message + *size + first, value, second);
	*size += first + second;
	message[(*size)++] = '\0';
	return true;
}

/* The question as one message.
 * @path: the socket that it goes to
 * Return: the message's size; 0 if it has no room
 */
static size_t write_question(const struct input *input, const char *path)
{
	static const char *const names[] = { "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS",
					     "CNI_PATH" };
	size_t size = 0, number;
	char name[32];

	if (!add_text(&size, VERSION, NULL) || !add_text(&size, "SOCKET=", path))
		return 0;
	for (number = 0; number < sizeof names / sizeof names[0]; number++) {
		const char *value = getenv(names[number]);

		snprintf(name, sizeof name, "%s=", names[number]);
		if (!add_text(&size, name, value ? value : ""))
			return 0;
	}
	if (size + 1 + input->size > sizeof message)
		return 0;
	message[size++] = '\0';
	memcpy(message + size, input->bytes, input->size);
	return size + input->size;
}

/* A connection to the daemon.
 * @path: the socket's path
 * Return: its descriptor; -1 if no daemon of this user's or of root's is there
 */
static int open_socket(const char *path)
{
	static const struct timeval patience = { .tv_sec = BEGIN_MS / 1000 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer;
	socklen_t size = sizeof peer;
	char directory[MAX_PATH + sizeof SOCKET_NAME];
	int folder, fd;

	/* By the directory's descriptor, since an address has room for 107 bytes only. */
	strcpy(directory, path);
	*strrchr(directory, '/') = '\0';
	folder = open(directory[0] ? directory : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return -1;
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" SOCKET_NAME, folder);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
	    connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 &&
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == 0 || peer.uid == geteuid())) {
		close(folder);
		return fd;
	}
	if (fd >= 0)
		close(fd);
	close(folder);
	return -1;
}

/* Send the message and the descriptors.
 * @fd: connection
 * @size: bytes of the message
 * @fds: descriptors
 * @count: how many of them
 * Return: whether it was sent
 */
static bool send_question(int fd, size_t size, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS)];
	} control = { 0 };
	struct iovec piece = { .iov_base = message, .iov_len = size };
	struct msghdr header = { .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.bytes,
				 .msg_controllen = CMSG_SPACE(sizeof(int) * count) };
	struct cmsghdr *rights = CMSG_FIRSTHDR(&header);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(rights), fds, sizeof(int) * count);
	return sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)size;
}

/* A clock that nobody sets. */
static long long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The daemon's next message.
 * @fd: connection
 * @patience: how many milliseconds to wait for it
 * When patience is over the connection is shut for the daemon's words, and what
 * it said before still counts: afterwards it cannot begin any more.
 * Return: its size, with the text in `message`; 0 if there is none
 */
static size_t receive(int fd, int patience)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	long long end = milliseconds() + patience;
	ssize_t size;

	for (;;) {
		long long left = end - milliseconds();
		int found = poll(&ready, 1, left > 0 ? (int)left : 0);

		if (found > 0)
			break;
		if (found == 0 || errno != EINTR) {
			shutdown(fd, SHUT_RD);
			break;
		}
	}
	do {
		size = recv(fd, message, sizeof message, MSG_DONTWAIT | MSG_TRUNC);
	} while (size < 0 && errno == EINTR);
	return size < 0 || (size_t)size > sizeof message ? 0 : (size_t)size;
}

/* Have the daemon do it.
 * @fd: connection, on which the question has been sent
 * @code: set to the exit code, if it answered
 * Return: how it ended
 */
static enum outcome converse(int fd, int *code)
{
	size_t size = receive(fd, BEGIN_MS);

	if (size == 0 || message[0] != 'B')
		return UNTOUCHED;
	size = receive(fd, ANSWER_MS);
	if (size > 0 && message[0] == 'N')
		return UNTOUCHED;
	if (size == 0 || (message[0] != 'R' && message[0] != 'E'))
		return LOST;
	*code = print_answer(message + 1, size - 1) && message[0] == 'R' ? 0 : 1;
	return ANSWERED;
}

enum outcome ask_daemon(const struct input *input, int *code)
{
	char path[MAX_PATH + sizeof SOCKET_NAME];
	enum outcome outcome = UNTOUCHED;
	int fds[DESCRIPTORS];
	size_t size, count, number;
	int fd;

	if (!input->whole || !find_socket(input->bytes, input->size, path))
		return UNTOUCHED;
	size = write_question(input, path);
	fd = size > 0 ? open_socket(path) : -1;
	if (fd < 0)
		return UNTOUCHED;
	for (number = 0; number < DESCRIPTORS; number++)
		fds[number] = -1;
	count = open_descriptors(fds);
	if (count > 0 && send_question(fd, size, fds, count))
		outcome = converse(fd, code);
	close(fd);
	for (number = 0; number < DESCRIPTORS; number++)
		if (fds[number] >= 0)
			close(fds[number]);
	return outcome;
}
