/* Network interfaces, balloon, vsock, entropy and serial port of Firecracker's API. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "vmm/config/internal.h"

/* --- network interfaces --- */

static int read_mac(const json_t *object, struct net_config *net, struct error *err)
{
	const char *text = NULL;
	int used = 0;
	int ret = json_read_string(object, "guest_mac", JSON_OPTIONAL, &text, err);

	if (ret < 0 || !text)
		return ret;
	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &net->mac[0], &net->mac[1], &net->mac[2],
	           &net->mac[3], &net->mac[4], &net->mac[5], &used) != 6 ||
	    strlen(text) != (size_t)used || used != 17)
		return error_set(err, EINVAL, "guest_mac must be like 06:00:ac:10:00:02, not '%s'", text);
	net->has_mac = true;
	return 0;
}

static int read_net(const json_t *object, struct net_config *net, struct error *err)
{
	static const char *const known[] = { "iface_id",        "host_dev_name",   "guest_mac", "mtu",
		                             "rx_rate_limiter", "tx_rate_limiter", NULL };
	const char *id = NULL;
	int64_t mtu = 0;
	int ret = config_only_known(object, "a network interface", known, err);

	if (ret == 0)
		ret = json_read_string(object, "iface_id", JSON_REQUIRED, &id, err);
	if (ret == 0)
		ret = config_check_id(id, "iface_id", err);
	if (ret < 0)
		return ret;
	(void)snprintf(net->id, sizeof(net->id), "%s", id);
	ret = json_read_string(object, "host_dev_name", JSON_REQUIRED, &net->host_dev_name, err);
	if (ret == 0)
		ret = read_mac(object, net, err);
	if (ret == 0)
		ret = json_read_integer(object, "mtu", JSON_OPTIONAL, 68, 65535, &mtu, err);
	net->mtu = (unsigned)mtu;
	if (ret == 0)
		ret = config_read_limiter(object, "rx_rate_limiter", &net->rx_limits, NULL, err);
	return ret < 0 ? ret : config_read_limiter(object, "tx_rate_limiter", &net->tx_limits, NULL, err);
}

/* What two interfaces must not share. */
static int check_unique(const struct machine_config *config, const struct net_config *net, struct error *err)
{
	for (const struct net_config *other = config->nets; other < net; other++) {
		if (strcmp(other->id, net->id) == 0)
			return error_set(err, EINVAL, "there are two interfaces %s", net->id);
		if (strcmp(other->host_dev_name, net->host_dev_name) == 0)
			return error_set(err, EINVAL, "interfaces %s and %s have the same host device %s",
			                 other->id, net->id, net->host_dev_name);
		if (net->has_mac && other->has_mac && memcmp(other->mac, net->mac, sizeof(net->mac)) == 0)
			return error_set(err, EINVAL, "interfaces %s and %s have the same MAC address",
			                 other->id, net->id);
	}
	return 0;
}

int config_read_nets(const json_t *root, struct machine_config *config, struct error *err)
{
	json_t *nets = NULL;
	int ret = json_read_array(root, "network-interfaces", JSON_OPTIONAL, &nets, err);
	size_t count = json_array_size(nets);

	if (ret == 0 && count > MACHINE_NETS_MAX)
		return error_set(err, E2BIG, "a machine has at most %d network interfaces", MACHINE_NETS_MAX);
	for (size_t i = 0; ret == 0 && i < count; i++) {
		struct net_config *net = &config->nets[config->net_count++];

		ret = read_net(json_array_get(nets, i), net, err);
		if (ret == 0)
			ret = check_unique(config, net, err);
	}
	return ret;
}

/* --- the metadata service on them --- */

static int read_metadata_interface(const json_t *name, struct machine_config *config, struct error *err)
{
	const char *id = json_string_value(name);

	for (unsigned i = 0; id && i < config->net_count; i++) {
		if (strcmp(config->nets[i].id, id) == 0) {
			config->metadata_on[i] = true;
			return 0;
		}
	}
	return error_set(err, EINVAL, "network_interfaces of mmds-config: there is no interface '%s'",
	                 id ? id : "(not a string)");
}

int config_read_metadata(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "version", "network_interfaces", "ipv4_address", "imds_compat",
		                             NULL };
	json_t *object = NULL;
	json_t *interfaces = NULL;
	size_t index;
	json_t *name;
	int ret = json_read_object(root, "mmds-config", JSON_OPTIONAL, &object, err);

	config->metadata = (struct mmds_config)MMDS_CONFIG_INIT;
	if (ret < 0 || !object)
		return ret;
	ret = config_only_known(object, "mmds-config", known, err);
	if (ret == 0)
		ret = mmds_config_read(&config->metadata, object, err);
	if (ret == 0)
		ret = json_read_array(object, "network_interfaces", JSON_REQUIRED, &interfaces, err);
	if (ret == 0 && json_array_size(interfaces) == 0)
		ret = error_set(err, EINVAL, "network_interfaces of mmds-config is empty");
	json_array_foreach (interfaces, index, name)
		if (ret == 0)
			ret = read_metadata_interface(name, config, err);
	return ret;
}

/* --- the rest --- */

int config_read_balloon(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = {
		"amount_mib",        "deflate_on_oom",      "stats_polling_interval_s",
		"free_page_hinting", "free_page_reporting", NULL
	};
	struct balloon_config *balloon = &config->balloon;
	json_t *object = NULL;
	int64_t amount = 0;
	int64_t interval = 0;
	int ret = json_read_object(root, "balloon", JSON_OPTIONAL, &object, err);

	if (ret < 0 || !object)
		return ret;
	ret = config_only_known(object, "balloon", known, err);
	if (ret == 0)
		ret = json_read_integer(object, "amount_mib", JSON_REQUIRED, 0, UINT32_MAX / 256, &amount,
		                        err);
	if (ret == 0)
		ret = json_read_bool(object, "deflate_on_oom", JSON_REQUIRED, &balloon->deflate_on_oom, err);
	if (ret == 0)
		ret = json_read_integer(object, "stats_polling_interval_s", JSON_OPTIONAL, 0, UINT16_MAX,
		                        &interval, err);
	if (ret == 0)
		ret = json_read_bool(object, "free_page_hinting", JSON_OPTIONAL, &balloon->free_page_hinting,
		                     err);
	if (ret == 0)
		ret = json_read_bool(object, "free_page_reporting", JSON_OPTIONAL,
		                     &balloon->free_page_reporting, err);
	if (ret == 0 && (uint64_t)amount > config->mem_size_mib)
		ret = error_set(err, EINVAL, "amount_mib of the balloon is more than the machine's %llu MiB",
		                (unsigned long long)config->mem_size_mib);
	balloon->amount_mib = (uint32_t)amount;
	balloon->stats_polling_interval_s = (unsigned)interval;
	config->has_balloon = true;
	return ret;
}

int config_read_vsock(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "vsock_id", "guest_cid", "uds_path", NULL };
	json_t *object = NULL;
	int64_t cid = 0;
	int ret = json_read_object(root, "vsock", JSON_OPTIONAL, &object, err);

	if (ret < 0 || !object)
		return ret;
	ret = config_only_known(object, "vsock", known, err);
	if (ret == 0)
		ret = json_read_integer(object, "guest_cid", JSON_REQUIRED, 3, UINT32_MAX - 1, &cid, err);
	if (ret == 0)
		ret = json_read_string(object, "uds_path", JSON_REQUIRED, &config->vsock.uds_path, err);
	config->vsock.guest_cid = (uint32_t)cid;
	return ret;
}

int config_read_entropy(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "rate_limiter", NULL };
	json_t *object = NULL;
	int ret = json_read_object(root, "entropy", JSON_OPTIONAL, &object, err);

	if (ret < 0 || !object)
		return ret;
	config->entropy = true;
	ret = config_only_known(object, "entropy", known, err);
	return ret < 0 ? ret
	               : config_read_limiter(object, "rate_limiter", &config->entropy_limits, NULL, err);
}

int config_read_serial(const json_t *root, struct machine_config *config, struct error *err)
{
	static const char *const known[] = { "serial_out_path", "rate_limiter", NULL };
	json_t *object = NULL;
	bool present;
	int ret = json_read_object(root, "serial", JSON_OPTIONAL, &object, err);

	if (ret < 0 || !object)
		return ret;
	ret = config_only_known(object, "serial", known, err);
	if (ret == 0)
		ret = json_read_string(object, "serial_out_path", JSON_OPTIONAL, &config->serial_out_path,
		                       err);
	return ret < 0 ? ret
	               : config_read_bucket(object, "rate_limiter", &config->serial_limit, &present, err);
}
