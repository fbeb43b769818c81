/* The CNI plugin's entry: asks the node's daemon to connect or disconnect a container, and runs the plugin proper,
 * which is Python, where nobody answers.
 *
 * Static, since it must start in well under a millisecond, and on hosts whose C library is another one or none. The
 * daemon needs no privilege over the container's namespace: what it could not open is opened here and sent along.
 *
 * At most once. The daemon says that it begins before it changes anything, and where its word cannot be delivered it
 * does not begin. So a connection that ends without that word has changed nothing, and the plugin proper does the
 * work. One that ends after it, without an answer, may have changed anything: ADD is then undone by the plugin proper's
 * DEL, which finds the record that the daemon wrote first and waits for the record's lock, and only after that ADD is
 * done anew; a DEL that fails ends in an error. DEL itself may be repeated as it is.
 */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_INPUT (9L << 20) /* bytes passed on; the plugin proper refuses more than 8 MiB, and says so */

static struct input input;

/* Return: whether all of the bytes were written. */
static bool write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t done = write(fd, data, size);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		data += done;
		size -= (size_t)done;
	}
	return true;
}

bool print_answer(const char *text, size_t size)
{
	signal(SIGPIPE, SIG_IGN);
	return write_all(STDOUT_FILENO, text, size);
}

_Noreturn void fail(const char *what, int error)
{
	char text[512];
	int size = snprintf(text, sizeof text, "{\"code\":999,\"msg\":\"%s: %s\"}\n", what, strerror(error));

	if (size > 0 && (size_t)size < sizeof text)
		print_answer(text, (size_t)size);
	_exit(1);
}

/* No file of ours may get number 0, 1 or 2. */
static void open_standard_descriptors(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO && fcntl(fd, F_SETFD, 0) == 0);
	if (fd >= 0)
		close(fd);
}

/* Read standard input up to its end, or until it is too long for us.
 * Return: whether it can be read
 */
static bool read_input(void)
{
	while (input.size < sizeof input.bytes) {
		ssize_t got = read(STDIN_FILENO, input.bytes + input.size, sizeof input.bytes - input.size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return false;
		if (got == 0) {
			input.whole = true;
			return true;
		}
		input.size += (size_t)got;
	}
	return true;
}

/* Standard input is again what it was, from its begin on. */
static void give_input_back(void)
{
	static const char *const what = "cannot pass standard input on";
	static char more[65536];
	int fd = memfd_create("stdin", MFD_CLOEXEC);

	if (fd < 0 || !write_all(fd, input.bytes, input.size))
		fail(what, errno);
	while (!input.whole) {
		ssize_t got = read(STDIN_FILENO, more, sizeof more);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		if (!write_all(fd, more, (size_t)got))
			fail(what, errno);
		if (lseek(fd, 0, SEEK_CUR) > MAX_INPUT)
			break;
	}
	if (lseek(fd, 0, SEEK_SET) != 0 || dup2(fd, STDIN_FILENO) < 0)
		fail(what, errno);
	close(fd);
}

/* Have the plugin proper take away what an ADD may have left.
 * Return: whether nothing is left
 */
static bool undo(void)
{
	char *nothing[] = { NULL };
	pid_t child = fork();
	int status;

	if (child < 0)
		return false;
	if (child == 0) {
		/* There is one document on standard output, and it is not this one. */
		if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || setenv("CNI_COMMAND", "DEL", 1) != 0)
			_exit(1);
		_exit(start_interpreter(nothing));
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return lseek(STDIN_FILENO, 0, SEEK_SET) == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Say that an ADD is neither done nor undone. */
static _Noreturn void report_lost(void)
{
	static const char text[] =
		"{\"code\":11,\"details\":\"DEL will undo it; see the log of flanneld\","
		"\"msg\":\"flanneld ended while it connected the container, and what it had done is not undone\"}\n";

	print_answer(text, sizeof text - 1);
	_exit(1);
}

int main(int argc, char **argv)
{
	const char *command = getenv("CNI_COMMAND");
	char *nothing[] = { NULL };
	enum outcome outcome;
	bool add;
	int code = 0;

	open_standard_descriptors();
	if (argc > 1)
		_exit(start_interpreter(argv + 1));
	add = command && !strcmp(command, "ADD");
	if (!add && (!command || strcmp(command, "DEL") != 0))
		_exit(start_interpreter(nothing));
	if (!read_input())
		_exit(start_interpreter(nothing)); /* it finds the error again, and reports it */
	outcome = ask_daemon(&input, &code);
	if (outcome == ANSWERED)
		_exit(code);
	give_input_back();
	if (outcome == LOST && add && !undo())
		report_lost();
	_exit(start_interpreter(nothing));
}
