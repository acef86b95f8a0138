/* What the environment tells the daemons. */
#include "cli/settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define NUMBER_MAX 1000000

static const struct setting {
	const char *variable;
	const char *option;
	const char *pair; /* two numbers with a colon; NULL: one number */
} settings[] = { { "ATOLL_RATE_LIMIT", "--rate-limit", "RATE:BURST" },
	         { "ATOLL_SANDBOX_CONNECTIONS", "--sandbox-connections", NULL },
	         { "ATOLL_EGRESS_LIMIT", "--egress-limit", "CONNECTIONS:RATE" } };

_Static_assert(SETTINGS_WORDS == 2 * ARRAY_SIZE(settings) + 1, "a pair for each, and an end");

/* "none", a number, or two of them. */
static bool is_valid(const struct setting *setting, const char *value)
{
	unsigned number;

	if (strcmp(value, "none") == 0)
		return true;
	if (!text_take_number(&value, NUMBER_MAX, &number))
		return false;
	if (setting->pair && (*value++ != ':' || !text_take_number(&value, NUMBER_MAX, &number)))
		return false;
	return *value == '\0';
}

int settings_read(const char *words[SETTINGS_WORDS], struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		const struct setting *setting = &settings[i];
		const char *value = getenv(setting->variable);

		if (!value || !value[0])
			continue;
		if (!is_valid(setting, value))
			return error_set(err, EINVAL, "%s must be %s or none, not '%s'", setting->variable,
			                 setting->pair ? setting->pair : "a number from 1 to 1000000", value);
		*words++ = setting->option;
		*words++ = value;
	}
	*words = NULL;
	return 0;
}
