/* Building a template of guest/templates. */
#pragma once

#include "cli/cli.h"

/* Build kernel and root file system of template `name`, and its snapshot on the running service; quick when
 * nothing changed. Progress goes to standard error. 0, or a negative errno with `err`. */
int template_build(const struct cli_places *places, const char *name, struct error *err);
