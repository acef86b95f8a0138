/* The process that owns QEMU and virtiofsd. Private to host/. */
#pragma once

#include <stdint.h>

#include "host/host.h"

#define LAB_PATH_MAX 512

struct keeper_plan {
	const struct lab *lab;
	char state[LAB_PATH_MAX];
	char image[LAB_PATH_MAX];
	char programs[LAB_PATH_MAX]; /* the lab's copy of lab->bin */
	char disk[LAB_PATH_MAX];
	char console[LAB_PATH_MAX];
	uint16_t exec_port;
};

/*
 * In a fresh child: become a daemon that holds `lock` (the pid file), start both programs and stay as long as
 * QEMU runs. SIGTERM ends all at once. Never returns.
 */
_Noreturn void keeper_main(const struct keeper_plan *plan, int lock);
