/*
 * json: reading values out of a JSON object that came from outside, on top of jansson.
 *
 * Each reader looks up `key`, checks type and range, and says in `err` what was wrong with which field. An
 * absent or null field leaves *ret as it was and returns 0 (set the default first), unless JSON_REQUIRED is
 * given.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define cleanup_json __attribute__((cleanup(json_decrefp)))

enum json_need {
	JSON_OPTIONAL,
	JSON_REQUIRED,
};

/* Parse an object (duplicate keys refused). New reference in *ret, or -EINVAL with the place of the mistake.
 */
int json_parse_object(const char *text, size_t size, json_t **ret, struct error *err);

/* *ret borrows from `object`. */
int json_read_string(const json_t *object, const char *key, enum json_need need, const char **ret,
                     struct error *err);
int json_read_integer(const json_t *object, const char *key, enum json_need need, int64_t minimum,
                      int64_t maximum, int64_t *ret, struct error *err);
int json_read_bool(const json_t *object, const char *key, enum json_need need, bool *ret, struct error *err);
int json_read_object(const json_t *object, const char *key, enum json_need need, json_t **ret,
                     struct error *err);
int json_read_array(const json_t *object, const char *key, enum json_need need, json_t **ret,
                    struct error *err);

/* An object all of whose values are strings (environment variables, metadata). */
int json_read_string_map(const json_t *object, const char *key, enum json_need need, json_t **ret,
                         struct error *err);
