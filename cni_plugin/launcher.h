/* What the launcher's parts know of each other. */
#ifndef FLANNEL_LAUNCHER_H
#define FLANNEL_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>

#define MAX_CONFIG 32768 /* bytes; no pod's network needs more, and the plugin proper takes more */

/* What was read of standard input, which the plugin proper needs again. @whole: there is no more. */
struct input {
	char bytes[MAX_CONFIG];
	size_t size;
	bool whole;
};

enum outcome {
	UNTOUCHED, /* nothing is changed */
	ANSWERED,  /* done, or failed for good, and said so */
	LOST,      /* it began, and there is no telling how far it came */
};

/* Have the node's daemon do it, if there is one that can.
 * @code: gets the exit code, if it answered
 */
enum outcome ask_daemon(const struct input *input, int *code);

/* Become the interpreter, with the same descriptors and environment.
 * @arguments: those of this program, without its name, closed by NULL
 * Return: the exit code, after an answer, if that cannot be
 */
int start_interpreter(char **arguments);

/* End with an error as a runtime expects it.
 * @what: what failed, text that needs no escaping in JSON
 * @error: errno of it
 */
_Noreturn void fail(const char *what, int error);

/* Write to standard output, where perhaps nobody reads any more. What follows can only be the end.
 * Return: whether all of it was written
 */
bool print_answer(const char *text, size_t size);

#endif
