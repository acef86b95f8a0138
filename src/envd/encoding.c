#include "envd/encoding.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLANK " \t"

struct choice {
	const char *name;
	size_t size;
	double quality;
};

/* Take the next "name;q=0.5" off a list. False at its end. */
static bool next_choice(const char **text, struct choice *choice)
{
	const char *at = *text;
	const char *end;
	const char *parameter;

	at += strspn(at, BLANK ",");
	if (!*at)
		return false;
	end = at + strcspn(at, ",");
	choice->name = at;
	choice->size = strcspn(at, ",;" BLANK);
	choice->quality = 1;
	parameter = at;
	while ((parameter = memchr(parameter, ';', (size_t)(end - parameter)))) {
		parameter++;
		parameter += strspn(parameter, BLANK);
		if (strncasecmp(parameter, "q=", 2) == 0)
			choice->quality = strtod(parameter + 2, NULL);
	}
	*text = end;
	return true;
}

static bool choice_is(const struct choice *choice, const char *name)
{
	return strlen(name) == choice->size && strncasecmp(choice->name, name, choice->size) == 0;
}

enum encoding encoding_of_content(const char *header)
{
	struct choice choice;

	if (!header || !next_choice(&header, &choice))
		return ENCODING_IDENTITY;
	/* (Several codings on top of each other are nothing that we take apart.) */
	if (header[strspn(header, BLANK ",")])
		return ENCODING_NONE;
	return choice_is(&choice, "identity")                               ? ENCODING_IDENTITY
	       : choice_is(&choice, "gzip") || choice_is(&choice, "x-gzip") ? ENCODING_GZIP
	                                                                    : ENCODING_NONE;
}

enum encoding encoding_accepted(const char *header, bool *ret_identity)
{
	struct choice choice;
	double gzip = -1;
	double identity = -1;
	double any = -1;
	bool plain_will_do;

	while (header && next_choice(&header, &choice)) {
		if (choice_is(&choice, "gzip"))
			gzip = choice.quality;
		else if (choice_is(&choice, "identity"))
			identity = choice.quality;
		else if (choice_is(&choice, "*"))
			any = choice.quality;
	}
	plain_will_do = identity > 0 || (identity < 0 && !(any >= 0 && any <= 0));
	if (ret_identity)
		*ret_identity = plain_will_do;
	if (gzip > 0 && gzip >= identity)
		return ENCODING_GZIP;
	if (plain_will_do)
		return ENCODING_IDENTITY;
	/* "*" stands for gzip when nothing plain is wanted. */
	return gzip > 0 || (gzip < 0 && any > 0) ? ENCODING_GZIP : ENCODING_NONE;
}
