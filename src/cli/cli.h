/* cli: the `atoll` command. Each subcommand is a file; this header is what they share. */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "host/host.h"

/* Where things are on this machine, from the environment or the defaults (docs/interfaces.md). */
struct cli_places {
	char data[256];    /* ATOLL_DATA, /var/lib/atoll */
	char run[256];     /* ATOLL_RUN, /run/atoll; ATOLL_DATA/run when that is set */
	char bin[256];     /* where this program lies */
	char source[256];  /* the source tree: bin/../.. */
	char scripts[300]; /* source/src/host/lab */
	char ip[64];       /* ATOLL_LISTEN, 127.0.0.1:3000 */
	uint16_t port;
	char tls_ip[64];   /* ATOLL_TLS_LISTEN, the same address and a port 443 higher; "none": no TLS */
	uint16_t tls_port; /* 0: no TLS */
	bool lab;          /* the service runs in the lab host */
};

/* Find the places. `probe` also decides on the mode (ATOLL_MODE=kvm|lab overrides). 0, or -errno with `err`.
 */
int cli_find_places(struct cli_places *places, struct error *err);
void cli_choose_mode(struct cli_places *places, struct host_probe *probe);

/* The lab host that these places describe; borrows from them. */
struct lab cli_lab(const struct cli_places *places);

/* Print "atoll: MESSAGE" and return EXIT_FAILURE. */
int cli_fail(const struct error *err);

/* The commands. argv[0] is the command's name. */
int cli_doctor(int argc, char **argv);
int cli_down(int argc, char **argv);
int cli_env(int argc, char **argv);
int cli_lab_command(int argc, char **argv);
int cli_supervise(int argc, char **argv);
int cli_template(int argc, char **argv);
int cli_up(int argc, char **argv);
