/* atoll up, down, env: the service's life for a person. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/request.h"
#include "cli/service.h"
#include "cli/template.h"
#include "net/tls_authority.h"

#define PROOF_TEMPLATE "code-interpreter-v1"
#define PROOF_CODE     "import platform; print(platform.release(), 6 * 7)"

static const char *const templates[] = { "base", PROOF_TEMPLATE };

/* --- steps with their time --- */

static int64_t step_started;

static void step_begin(const char *what)
{
	fprintf(stderr, "atoll: %s ...\n", what);
	step_started = time_monotonic_us();
}

static void step_end(const char *what)
{
	fprintf(stderr, "atoll: %s: done in %.2f s\n", what,
	        (double)(time_monotonic_us() - step_started) / 1e6);
}

/* --- the proof --- */

struct proof {
	const struct cli_places *places;
	char key[CLI_KEY_SIZE];
	char key_header[128];
	char base[96];
	char id[64];
	char token[160];
	char output[256];
};

static int create(struct proof *proof, struct error *err)
{
	char url[160];
	struct cli_request request = { .method = "POST",
		                       .url = url,
		                       .headers = { proof->key_header },
		                       .body = "{\"templateID\":\"" PROOF_TEMPLATE
		                               "\",\"timeout\":60,\"secure\":true}",
		                       .timeout_seconds = 60 };
	cleanup_buffer struct buffer answer = { .limit = 1 << 20 };
	cleanup_json json_t *sandbox = NULL;
	const char *id;
	const char *token;
	long status = 0;
	int ret;

	(void)snprintf(url, sizeof(url), "%s/sandboxes", proof->base);
	ret = cli_request_run(&request, &status, &answer, err);
	if (ret < 0)
		return ret;
	sandbox = json_loadb(answer.data ? answer.data : "", answer.size, 0, NULL);
	id = json_string_value(json_object_get(sandbox, "sandboxID"));
	token = json_string_value(json_object_get(sandbox, "envdAccessToken"));
	if (status != 201 || !id)
		return error_set(err, EIO, "create a sandbox: status %ld: %.300s", status,
		                 answer.data ? answer.data : "");
	(void)snprintf(proof->id, sizeof(proof->id), "%s", id);
	(void)snprintf(proof->token, sizeof(proof->token), "X-Access-Token: %s", token ? token : "");
	return 0;
}

/* Collect what the cell printed. */
static void on_item(const char *line, void *context)
{
	struct proof *proof = context;
	cleanup_json json_t *item = json_loads(line, 0, NULL);
	const char *type = json_string_value(json_object_get(item, "type"));
	const char *text = json_string_value(json_object_get(item, "text"));
	size_t used = strlen(proof->output);

	if (type && text && strcmp(type, "stdout") == 0)
		(void)snprintf(proof->output + used, sizeof(proof->output) - used, "%s", text);
}

static int execute(struct proof *proof, struct error *err)
{
	char url[160];
	char id_header[96];
	struct cli_request request = { .method = "POST",
		                       .url = url,
		                       .headers = { id_header, "E2b-Sandbox-Port: 49999", proof->token },
		                       .body = "{\"code\":\"" PROOF_CODE "\"}",
		                       .timeout_seconds = 60,
		                       .on_line = on_item,
		                       .context = proof };
	long status = 0;
	int ret;

	(void)snprintf(url, sizeof(url), "%s/execute", proof->base);
	(void)snprintf(id_header, sizeof(id_header), "E2b-Sandbox-Id: %s", proof->id);
	ret = cli_request_run(&request, &status, NULL, err);
	if (ret == 0 && (status != 200 || !strstr(proof->output, " 42")))
		ret = error_set(err, EIO, "run code: status %ld, output '%s'", status, proof->output);
	return ret;
}

static int kill_sandbox(struct proof *proof, struct error *err)
{
	char url[256];
	struct cli_request request = {
		.method = "DELETE", .url = url, .headers = { proof->key_header }, .timeout_seconds = 30
	};
	long status = 0;
	int ret;

	(void)snprintf(url, sizeof(url), "%s/sandboxes/%s", proof->base, proof->id);
	ret = cli_request_run(&request, &status, NULL, err);
	if (ret == 0 && status != 204)
		ret = error_set(err, EIO, "kill sandbox %s: status %ld", proof->id, status);
	return ret;
}

static int prove(struct proof *proof, struct error *err)
{
	int ret;

	(void)snprintf(proof->key_header, sizeof(proof->key_header), "X-API-KEY: %s", proof->key);
	(void)snprintf(proof->base, sizeof(proof->base), "http://%s:%u", proof->places->ip,
	               proof->places->port);
	step_begin("create a sandbox");
	ret = create(proof, err);
	if (ret < 0)
		return ret;
	step_end("create a sandbox");
	step_begin("run Python in it");
	ret = execute(proof, err);
	if (ret == 0) {
		step_end("run Python in it");
		fprintf(stderr, "atoll: sandbox %s (its kernel and 6 * 7): %s", proof->id, proof->output);
		ret = kill_sandbox(proof, err);
	}
	return ret;
}

/* --- commands --- */

static void print_env(const struct cli_places *places, const char *key)
{
	printf("export E2B_API_KEY=%s\n", key);
	printf("export E2B_API_URL=http://%s:%u\n", places->ip, places->port);
	printf("export E2B_SANDBOX_URL=http://%s:%u\n", places->ip, places->port);
	printf("export E2B_VOLUME_API_URL=http://%s:%u\n", places->ip, places->port);
}

/* By names: for getHost() and file URLs, which are made of the domain. */
static void print_domain_env(const struct cli_places *places, const char *key)
{
	const char *certificate = getenv("ATOLL_TLS_CERT");

	printf("export E2B_API_KEY=%s\n", key);
	printf("export E2B_DOMAIN=" TLS_AUTHORITY_DOMAIN ":%u\n", places->tls_port);
	printf("unset E2B_API_URL E2B_SANDBOX_URL E2B_VOLUME_API_URL\n");
	if (certificate)
		return;
	printf("export NODE_EXTRA_CA_CERTS=%s/tls/ca.pem\n", places->data);
	printf("export SSL_CERT_FILE=%s/tls/ca.pem\n", places->data);
}

static void say_mode(const struct cli_places *places, const struct host_probe *probe)
{
	if (!places->lab)
		fprintf(stderr, "atoll: this machine's KVM is used directly\n");
	else if (probe->kvm == HOST_KVM_TOO_SLOW)
		fprintf(stderr,
		        "atoll: /dev/kvm runs only %.1f million ring-0 instructions a second: using the lab "
		        "host\n"
		        "       (software emulation; everything in a sandbox is about 15 times slower)\n",
		        probe->rate);
	else
		fprintf(stderr,
		        "atoll: no usable KVM here (%s): using the lab host\n"
		        "       (software emulation; everything in a sandbox is about 15 times slower)\n",
		        probe->reason);
}

static int bring_up(struct cli_places *places, struct error *err)
{
	struct proof proof = { .places = places };
	struct host_probe probe;
	struct lab lab = cli_lab(places);
	int ret;

	if (geteuid() != 0)
		return error_set(err, EPERM, "this needs root");
	cli_choose_mode(places, &probe);
	say_mode(places, &probe);
	ret = service_key(places, true, proof.key, err);
	if (ret < 0)
		return ret;
	if (places->lab && lab_running(&lab) && lab_outdated(&lab)) {
		step_begin("end the lab host, which runs other programs");
		ret = lab_stop(&lab, err);
		if (ret < 0)
			return ret;
		step_end("end the lab host, which runs other programs");
	}
	if (!service_healthy(places)) {
		step_begin("start the service");
		ret = service_start(places, err);
		if (ret < 0)
			return ret;
		step_end("start the service");
	}
	for (size_t i = 0; i < ARRAY_SIZE(templates); i++) {
		char what[64];

		(void)snprintf(what, sizeof(what), "template %s", templates[i]);
		step_begin(what);
		ret = template_build(places, templates[i], err);
		if (ret < 0)
			return ret;
		step_end(what);
	}
	ret = prove(&proof, err);
	if (ret < 0)
		return ret;
	fprintf(stderr, "atoll: up. The environment for clients (eval \"$(./atoll env)\"):\n");
	print_env(places, proof.key);
	return 0;
}

int cli_up(int argc, char **argv)
{
	struct cli_places places = { 0 };
	struct error err = { 0 };

	(void)argc;
	(void)argv;
	if (cli_find_places(&places, &err) < 0 || bring_up(&places, &err) < 0)
		return cli_fail(&err);
	return EXIT_SUCCESS;
}

int cli_down(int argc, char **argv)
{
	struct cli_places places = { 0 };
	struct error err = { 0 };

	(void)argc;
	(void)argv;
	if (cli_find_places(&places, &err) < 0 || service_stop(&places, &err) < 0)
		return cli_fail(&err);
	return EXIT_SUCCESS;
}

int cli_env(int argc, char **argv)
{
	struct cli_places places = { 0 };
	char key[CLI_KEY_SIZE];
	struct error err = { 0 };
	bool domain = argc == 2 && strcmp(argv[1], "--domain") == 0;

	if (argc > 1 && !domain) {
		fputs("usage: atoll env [--domain]\n", stderr);
		return 2;
	}
	if (cli_find_places(&places, &err) < 0 || service_key(&places, false, key, &err) < 0)
		return cli_fail(&err);
	if (domain && !places.tls_port) {
		error_set(&err, EINVAL, "there are no names without TLS, which ATOLL_TLS_LISTEN turns off");
		return cli_fail(&err);
	}
	if (domain)
		print_domain_env(&places, key);
	else
		print_env(&places, key);
	return EXIT_SUCCESS;
}
