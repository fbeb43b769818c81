/* The plugin proper: starts the interpreter that runs it, and is gone.
 *
 * Beside this program lies flannel.d, a folder or a symbolic link to one, which an update replaces by a rename. In it
 * the file `start` holds the command, a word a line; a word that begins with ./ is a path in the folder. The link is followed
 * once, so that the plugin loads all its parts from one version.
 */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "/flannel.d"
#define MAX_START_BYTES 4096
#define MAX_WORDS 256

/* What the installer knows its own executable by. */
__attribute__((used)) static const char mark[] = "# CNI plugin flannel of flanneld_py";

extern char **environ;

/* Writes a text to a descriptor; nothing can be done if it is not taken. */
static void say(int fd, const char *text)
{
	ssize_t written = write(fd, text, strlen(text));
	(void)written;
}

/* Answers as the CNI specification wants it, code 999: a failure of no kind that it names.
 * @what: what cannot be used, a path or a file's name without quotes
 * @error: errno
 * Return: the exit code
 */
static int refuse(const char *what, int error)
{
	say(1, "{\"code\": 999, \"msg\": \"the plugin's interpreter cannot be started\", \"details\": \"");
	say(1, what);
	say(1, ": ");
	say(1, strerror(error));
	say(1, "; run the installer again\"}\n");
	return 1;
}

/* Finds the folder that holds the interpreter.
 * @folder: PATH_MAX bytes, gets its real path
 * Return: 0, or -1 with errno
 */
static int find_folder(char *folder)
{
	char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof FOLDER);
	char *name;

	if (length < 0)
		return -1;
	path[length] = '\0';
	name = strrchr(path, '/');
	if (name == NULL) {
		errno = ENOENT;
		return -1;
	}
	memcpy(name, FOLDER, sizeof FOLDER);
	return realpath(path, folder) == NULL ? -1 : 0;
}

/* Reads the file `start`.
 * @folder: where it lies
 * @text: MAX_START_BYTES bytes, gets its content, closed by a zero
 * Return: 0, or -1 with errno
 */
static int read_start(const char *folder, char *text)
{
	char path[PATH_MAX + sizeof "/start"];
	size_t used = 0;
	ssize_t got;
	int fd;

	strcat(strcpy(path, folder), "/start");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	while (used < MAX_START_BYTES && (got = read(fd, text + used, MAX_START_BYTES - used)) != 0) {
		if (got < 0)
			return -1;
		used += (size_t)got;
	}
	close(fd);
	if (used == MAX_START_BYTES) {
		errno = EFBIG;
		return -1;
	}
	text[used] = '\0';
	return 0;
}

/* Cuts the content of `start` into words, and adds the caller's arguments.
 * @words: MAX_WORDS pointers, closed by NULL afterwards
 * Return: 0, or -1 with errno
 */
static int split(char *text, const char *folder, char **arguments, char **words)
{
	size_t count = 0;
	char *rest = NULL;

	for (char *word = strtok_r(text, "\n", &rest); word != NULL; word = strtok_r(NULL, "\n", &rest)) {
		if (count == MAX_WORDS - 1) {
			errno = E2BIG;
			return -1;
		}
		if (strncmp(word, "./", 2) == 0) {
			size_t size = strlen(folder) + strlen(word);
			char *path = malloc(size);

			if (path == NULL)
				return -1;
			strcat(strcpy(path, folder), word + 1);
			word = path;
		}
		words[count++] = word;
	}
	if (count == 0) {
		errno = ENOEXEC;
		return -1;
	}
	for (; *arguments != NULL; arguments++) {
		if (count == MAX_WORDS - 1) {
			errno = E2BIG;
			return -1;
		}
		words[count++] = *arguments;
	}
	words[count] = NULL;
	return 0;
}

int start_interpreter(char **arguments)
{
	static char folder[PATH_MAX], text[MAX_START_BYTES + 1];
	static char *words[MAX_WORDS];

	if (find_folder(folder) < 0)
		return refuse("flannel.d beside the plugin", errno);
	if (read_start(folder, text) < 0 || split(text, folder, arguments, words) < 0)
		return refuse("flannel.d/start", errno);
	execve(words[0], words, environ);
	return refuse(words[0], errno);
}
