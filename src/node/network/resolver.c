/* Who answers the guests' DNS questions: whoever answers this machine's. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "node/network/network_internal.h"

#define SYSTEM_FILE "/etc/resolv.conf"
#define UPSTREAM_FILE                                                                                        \
	"/run/systemd/resolve/resolv.conf" /* of systemd-resolved, whose stub is in the other                \
	                                    */
#define FILE_MAX 65536
#define FALLBACK "1.1.1.1"

/* "nameserver ADDRESS", blanks in between: resolv.conf(5). */
static bool read_line(const char *line, size_t size, struct in_addr *ret)
{
	static const char keyword[] = "nameserver";
	char address[INET_ADDRSTRLEN];
	size_t at = sizeof(keyword) - 1;
	size_t length = 0;

	if (size <= at || memcmp(line, keyword, at) != 0 || (line[at] != ' ' && line[at] != '\t'))
		return false;
	while (at < size && (line[at] == ' ' || line[at] == '\t'))
		at++;
	while (at + length < size && !strchr(" \t\r#;", line[at + length]))
		length++;
	if (length >= sizeof(address))
		return false;
	memcpy(address, line + at, length);
	address[length] = '\0';
	return inet_pton(AF_INET, address, ret) == 1;
}

uint32_t network_parse_resolver(const char *text, bool *ret_loopback)
{
	struct in_addr address;

	*ret_loopback = false;
	while (*text) {
		size_t size = strcspn(text, "\n");
		uint32_t host;

		if (read_line(text, size, &address)) {
			host = ntohl(address.s_addr);
			/* 0.0.0.0 is this machine, too. */
			if (host >> 24 != 127 && host >> 24 != 0 && host >> 28 < 0xe)
				return address.s_addr;
			*ret_loopback |= host >> 28 < 0xe;
		}
		text += size + (text[size] == '\n');
	}
	return 0;
}

static uint32_t read_resolver(const char *path, bool *ret_loopback)
{
	cleanup_buffer struct buffer text = { .limit = FILE_MAX };

	*ret_loopback = false;
	if (file_read(path, &text, NULL) < 0 || !text.data)
		return 0;
	return network_parse_resolver(text.data, ret_loopback);
}

uint32_t network_find_resolver(void)
{
	bool loopback;
	uint32_t address = read_resolver(SYSTEM_FILE, &loopback);

	if (!address && loopback)
		address = read_resolver(UPSTREAM_FILE, &loopback);
	return address ? address : inet_addr(FALLBACK);
}
