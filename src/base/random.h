/* random: unpredictable bytes from the kernel, and identifiers made of them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Fill `data` from getrandom(2). Aborts the program if the kernel refuses: nothing secret may go on without.
 */
void random_bytes(void *data, size_t size);

/* `bytes` random bytes as lowercase hex; `text` holds 2 * bytes + 1. */
void random_hex(char *text, size_t bytes);

/* `length` characters of [a-z0-9], uniform, and a NUL; `text` holds length + 1. */
void random_id(char *text, size_t length);

/* Compare secrets without telling by time where they differ. Lengths may be told. */
bool secret_equal(const char *a, const char *b);

/* A UUID of version 4 (RFC 9562), lower case: 36 characters and the NUL. */
void random_uuid(char id[37]);
