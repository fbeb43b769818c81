/* The launcher's reading of a configuration, under the sanitizers: damaged text, and the answer for text that is whole.
 *
 * launcher_fuzz ROUNDS SEED: damages a configuration in that many ways; prints that nothing was found.
 * launcher_fuzz <FILE: prints the path of the socket, or "doubt".
 */

#include "launcher_ask.c"

static struct input input;

/* What other parts of the launcher do. */
_Noreturn void fail(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error));
	exit(1);
}

bool print_answer(const char *text, size_t size)
{
	return fwrite(text, 1, size, stdout) == size;
}

static const char whole[] =
	"{\"name\": \"cbr0\", \"delegate\": {\"subnetFile\": \"/no\", \"a\": [\"subnetFile\", {\"b\\\"\": 1}]}, "
	"\"subnetFile\" : \"/run/flannel/subnet.env\", \"type\": \"flannel\"}";

/* What a damage puts there: what means something, and anything. */
static const char bytes[] = "\"\\{}[]:,/ \n\tabc\0";

static void damage(unsigned *seed)
{
	unsigned count = (unsigned)rand_r(seed) % 6;

	input.size = sizeof whole - 1;
	memcpy(input.bytes, whole, input.size);
	while (count-- > 0 && input.size > 0) {
		size_t at = (size_t)rand_r(seed) % input.size;

		if (rand_r(seed) % 4 == 0)
			input.size = at;
		else if (rand_r(seed) % 3 == 0)
			input.bytes[at] = (char)rand_r(seed);
		else
			input.bytes[at] = bytes[(size_t)rand_r(seed) % sizeof bytes];
	}
}

int main(int argc, char **argv)
{
	static char path[MAX_PATH + sizeof SOCKET_NAME];

	if (argc < 3) {
		input.size = fread(input.bytes, 1, sizeof input.bytes, stdin);
		puts(find_socket(input.bytes, input.size, path) ? path : "doubt");
		return 0;
	}
	const unsigned long rounds = strtoul(argv[1], NULL, 10);
	unsigned seed = (unsigned)strtoul(argv[2], NULL, 10);
	for (unsigned long round = 0; round < rounds; round++) {
		damage(&seed);
		/* A copy of its own size: the sanitizer sees a byte that is read beyond it. */
		char *exact = malloc(input.size + 1);
		if (exact == NULL)
			return 1;
		memcpy(exact + 1, input.bytes, input.size);
		if (find_socket(exact + 1, input.size, path) && (path[0] != '/' || strlen(path) >= sizeof path - 1)) {
			printf("a path that is none: %s\n", path);
			return 1;
		}
		free(exact);
	}
	printf("%lu rounds, nothing found\n", rounds);
	return 0;
}
