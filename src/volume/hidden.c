#include <string.h>

#include "volume/volume.h"

bool volume_is_hidden(const char *name)
{
	const char *digits = name + strlen(VOLUME_HIDDEN_PREFIX);

	return strncmp(name, VOLUME_HIDDEN_PREFIX, strlen(VOLUME_HIDDEN_PREFIX)) == 0 &&
	       strspn(digits, "0123456789abcdef") == VOLUME_HIDDEN_DIGITS && !digits[VOLUME_HIDDEN_DIGITS];
}
