#include "base/json.h"

#include <errno.h>
#include <inttypes.h>

int json_parse_object(const char *text, size_t size, json_t **ret, struct error *err)
{
	json_error_t where;
	json_t *value = json_loadb(text ? text : "", size, JSON_REJECT_DUPLICATES, &where);

	if (!value)
		return error_set(err, EINVAL, "invalid JSON at line %d column %d: %s", where.line,
		                 where.column, where.text);
	if (!json_is_object(value)) {
		json_decref(value);
		return error_set(err, EINVAL, "invalid JSON: an object was expected");
	}
	*ret = value;
	return 0;
}

/* Look up a field of one of two types (they differ only for booleans). 1 = found, 0 = absent and allowed. */
static int json_find(const json_t *object, const char *key, enum json_need need, json_type type,
                     json_type other, const char *type_name, json_t **ret, struct error *err)
{
	json_t *value = json_object_get(object, key);

	if (!value || json_is_null(value)) {
		if (need == JSON_REQUIRED)
			return error_set(err, EINVAL, "field '%s' is required", key);
		return 0;
	}
	if (json_typeof(value) != type && json_typeof(value) != other)
		return error_set(err, EINVAL, "field '%s' must be %s", key, type_name);
	*ret = value;
	return 1;
}

int json_read_string(const json_t *object, const char *key, enum json_need need, const char **ret,
                     struct error *err)
{
	json_t *value = NULL;
	int found = json_find(object, key, need, JSON_STRING, JSON_STRING, "a string", &value, err);

	if (found <= 0)
		return found;
	*ret = json_string_value(value);
	return 0;
}

int json_read_integer(const json_t *object, const char *key, enum json_need need, int64_t minimum,
                      int64_t maximum, int64_t *ret, struct error *err)
{
	json_t *value = NULL;
	int found = json_find(object, key, need, JSON_INTEGER, JSON_INTEGER, "an integer", &value, err);
	int64_t number;

	if (found <= 0)
		return found;
	number = json_integer_value(value);
	if (number < minimum || number > maximum)
		return error_set(err, ERANGE, "field '%s' must be between %" PRId64 " and %" PRId64, key,
		                 minimum, maximum);
	*ret = number;
	return 0;
}

int json_read_bool(const json_t *object, const char *key, enum json_need need, bool *ret, struct error *err)
{
	json_t *value = NULL;
	int found = json_find(object, key, need, JSON_TRUE, JSON_FALSE, "true or false", &value, err);

	if (found <= 0)
		return found;
	*ret = json_is_true(value);
	return 0;
}

int json_read_object(const json_t *object, const char *key, enum json_need need, json_t **ret,
                     struct error *err)
{
	int found = json_find(object, key, need, JSON_OBJECT, JSON_OBJECT, "an object", ret, err);

	return found < 0 ? found : 0;
}

int json_read_array(const json_t *object, const char *key, enum json_need need, json_t **ret,
                    struct error *err)
{
	int found = json_find(object, key, need, JSON_ARRAY, JSON_ARRAY, "an array", ret, err);

	return found < 0 ? found : 0;
}

int json_read_string_map(const json_t *object, const char *key, enum json_need need, json_t **ret,
                         struct error *err)
{
	json_t *map = NULL;
	const char *name;
	json_t *value = NULL;
	int failed = json_read_object(object, key, need, &map, err);

	if (failed < 0 || !map)
		return failed;
	json_object_foreach (map, name, value) {
		if (!json_is_string(value))
			return error_set(err, EINVAL, "field '%s.%s' must be a string", key, name);
	}
	*ret = map;
	return 0;
}
