/* Fuzz the paths of the volume content API: what comes out leads nowhere but down. */
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/volumes/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *path)
{
	char again[TREE_PATH_MAX];

	if (strlen(path) >= TREE_PATH_MAX || *path == '/' || strstr(path, "//"))
		abort();
	for (const char *name = path; *name;) {
		size_t length = strcspn(name, "/");

		if (length == 0 || length > NAME_MAX || strncmp(name, "..", length < 2 ? 2 : length) == 0 ||
		    (length == 1 && *name == '.'))
			abort();
		name += length + (name[length] == '/');
	}
	if (*path && (path[strlen(path) - 1] == '/' || tree_normalize(path, again, NULL) < 0 ||
	              strcmp(path, again) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	char path[TREE_PATH_MAX];

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	if (tree_normalize(text, path, NULL) == 0)
		check(path);
	free(text);
	return 0;
}
