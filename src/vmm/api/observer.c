#include "vmm/api/observer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/base.h"
#include "vmm/api/metrics.h"

#define FLUSH_INTERVAL (60 * 1000) /* ms, as Firecracker's */

struct observer {
	struct api *api;
	uv_timer_t timer;
	int metrics; /* -1: nobody said where to */
	bool emit_id;
	json_t *properties; /* for each line, or NULL */
	json_t *previous;   /* counters of the last line: the next one has what came since */
};

struct observer *observer_new(struct api *api, struct error *err)
{
	struct observer *observer = calloc(1, sizeof(*observer));

	if (!observer) {
		error_errno(err, ENOMEM, "make the metrics");
		return NULL;
	}
	*observer = (struct observer){ .api = api, .metrics = -1 };
	(void)uv_timer_init(api->loop, &observer->timer);
	observer->timer.data = observer;
	return observer;
}

void observer_free(struct observer *observer)
{
	if (!observer)
		return;
	if (observer->metrics >= 0) {
		(void)observer_flush(observer, NULL);
		close(observer->metrics);
	}
	json_decref(observer->properties);
	json_decref(observer->previous);
	free(observer);
}

/* A file is made when it is missing; a named pipe needs a reader, and never blocks us. */
static int open_output(const char *path, const char *what, struct error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC, 0644);

	if (fd < 0 && errno == ENXIO)
		fd = open(path, O_RDWR | O_APPEND | O_NONBLOCK | O_CLOEXEC);
	return fd >= 0 ? fd : error_errno(err, errno, "open %s %s", what, path);
}

/* --- the log --- */

static int read_level(const char *name, enum log_level *ret, struct error *err)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = { { "Off", LOG_LEVEL_OFF },      { "Error", LOG_LEVEL_ERROR },
		       { "Warning", LOG_LEVEL_WARN }, { "Warn", LOG_LEVEL_WARN },
		       { "Info", LOG_LEVEL_INFO },    { "Debug", LOG_LEVEL_DEBUG },
		       { "Trace", LOG_LEVEL_DEBUG } };

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcasecmp(levels[i].name, name) == 0) {
			*ret = levels[i].level;
			return 0;
		}
	}
	return error_set(err, EINVAL, "level must be Off, Error, Warning, Info, Debug or Trace, not '%s'",
	                 name);
}

/* Lines always have their level and never an origin or a filter: those wishes are taken and change nothing.
 */
static int set_logger(const json_t *body, struct error *err)
{
	static const char *const known[] = { "level",           "log_path", "show_level",
		                             "show_log_origin", "module",   NULL };
	const char *level_name = NULL;
	const char *path = NULL;
	enum log_level level = LOG_LEVEL_INFO;
	int ret = config_only_known(body, "the logger", known, err);

	if (ret == 0)
		ret = json_read_string(body, "level", JSON_OPTIONAL, &level_name, err);
	if (ret == 0)
		ret = json_read_string(body, "log_path", JSON_OPTIONAL, &path, err);
	if (ret == 0 && level_name)
		ret = read_level(level_name, &level, err);
	if (ret == 0 && path) {
		int fd = open_output(path, "the log", err);

		ret = fd < 0 ? fd : 0;
		if (fd >= 0)
			log_to(fd);
	}
	if (ret == 0 && level_name)
		log_set_level(level);
	return ret;
}

int observer_put_logger(const struct api_call *call, struct error *err)
{
	int ret = set_logger(call->body, err);

	if (ret == 0)
		(void)json_object_set_new(call->api->config, "logger", json_deep_copy(call->body));
	return ret;
}

/* --- metrics --- */

static void on_interval(uv_timer_t *timer)
{
	struct observer *observer = timer->data;
	struct error err = { 0 };

	if (observer_flush(observer, &err) < 0)
		log_warn("%s", err.message);
}

static int set_metrics(struct observer *observer, const json_t *body, struct error *err)
{
	static const char *const known[] = { "metrics_path", "emit_id", "properties", NULL };
	const char *path = NULL;
	json_t *properties = NULL;
	int ret = config_only_known(body, "metrics", known, err);

	if (ret == 0 && observer->metrics >= 0)
		ret = error_set(err, EALREADY, "the metrics have been configured already");
	if (ret == 0)
		ret = json_read_string(body, "metrics_path", JSON_REQUIRED, &path, err);
	if (ret == 0)
		ret = json_read_bool(body, "emit_id", JSON_OPTIONAL, &observer->emit_id, err);
	if (ret == 0)
		ret = json_read_string_map(body, "properties", JSON_OPTIONAL, &properties, err);
	if (ret < 0)
		return ret;
	observer->metrics = open_output(path, "the metrics", err);
	if (observer->metrics < 0)
		return observer->metrics;
	observer->properties = json_incref(properties);
	(void)uv_timer_start(&observer->timer, on_interval, FLUSH_INTERVAL, FLUSH_INTERVAL);
	uv_unref((uv_handle_t *)&observer->timer);
	return 0;
}

int observer_put_metrics(const struct api_call *call, struct error *err)
{
	int ret = set_metrics(call->api->observer, call->body, err);

	if (ret == 0)
		(void)json_object_set_new(call->api->config, "metrics", json_deep_copy(call->body));
	return ret;
}

int observer_configure(struct observer *observer, const json_t *config, struct error *err)
{
	json_t *logger = NULL;
	json_t *metrics = NULL;
	int ret = json_read_object(config, "logger", JSON_OPTIONAL, &logger, err);

	if (ret == 0)
		ret = json_read_object(config, "metrics", JSON_OPTIONAL, &metrics, err);
	if (ret == 0 && logger)
		ret = set_logger(logger, err);
	if (ret == 0 && metrics)
		ret = set_metrics(observer, metrics, err);
	return ret;
}

int observer_flush(struct observer *observer, struct error *err)
{
	json_t *now;
	cleanup_json json_t *line = NULL;
	cleanup_free char *text = NULL;
	size_t size;
	int ret = 0;

	if (observer->metrics < 0)
		return error_set(err, EINVAL, "the metrics have not been configured");
	now = metrics_collect(observer->api);
	line = metrics_line(now, observer->previous);
	if (observer->emit_id)
		(void)json_object_set_new(line, "id", json_string(observer->api->options->id));
	if (observer->properties)
		(void)json_object_set(line, "properties", observer->properties);
	text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	size = text ? strlen(text) : 0;
	if (text)
		text[size] = '\n'; /* in place of the NUL: it is written by size */
	if (!text)
		ret = error_errno(err, ENOMEM, "write the metrics");
	else if (write(observer->metrics, text, size + 1) != (ssize_t)size + 1)
		ret = error_errno(err, errno, "write the metrics");
	json_decref(observer->previous);
	observer->previous = now;
	return ret;
}

char *observer_prometheus(struct observer *observer)
{
	cleanup_json json_t *now = metrics_collect(observer->api);

	return metrics_prometheus(now, observer->api->options->id);
}
