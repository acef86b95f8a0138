#include "node/boot.h"

#include "node/network/network.h"
#include "node/places.h"

#define BOOT_INTERFACE 6 /* the request that makes one */

#define ARGS                                                                                                 \
	"console=ttyS0 reboot=k panic=-1 quiet loglevel=3 no_timer_check tsc=reliable random.trust_cpu=on "  \
	"i8042.nokbd i8042.noaux root=/dev/vda rw init=/sbin/init"
/*
 * An emulator translates code by its address: with programs at random addresses it does so again at each
 * start, which makes them three times slower. And it takes `rep movsq` apart word by word: plain loops copy a
 * page several times faster.
 */
#define EMULATED_ARGS " norandmaps clearcpuid=rep_good"

static json_t *boot_source(const struct boot *boot)
{
	json_t *source = json_pack(
	        "{s:o,s:o}", "kernel_image_path", json_sprintf("%s/" BOOT_KERNEL, boot->inside), "boot_args",
	        json_sprintf("%s%s %s", ARGS, boot->emulated ? EMULATED_ARGS : "", boot->args));

	if (boot->initrd)
		(void)json_object_set_new(source, "initrd_path",
		                          json_sprintf("%s/" BOOT_INITRD, boot->inside));
	return source;
}

json_t *boot_request(const struct boot *boot, unsigned index, const char **method, const char **target)
{
	*method = "PUT";
	/* One without an interface skips that. */
	if (!boot->network && index >= BOOT_INTERFACE)
		index++;
	switch (index) {
	case 0:
		*target = "/machine-config";
		return json_pack("{s:i,s:i}", "vcpu_count", (int)boot->vcpu_count, "mem_size_mib",
		                 (int)boot->memory_mib);
	case 1:
		*target = "/boot-source";
		return boot_source(boot);
	case 2:
		*target = "/drives/rootfs";
		return json_incref(boot->drive);
	case 3:
		*target = "/vsock";
		return json_pack("{s:i,s:s}", "guest_cid", 3, "uds_path", MONITOR_RUN "/vsock.sock");
	case 4:
		*target = "/entropy";
		return json_object();
	case 5:
		*target = "/serial";
		return json_pack("{s:s}", "serial_out_path", MONITOR_RUN "/serial.log");
	case BOOT_INTERFACE:
		*target = "/network-interfaces/eth0";
		return json_pack("{s:s,s:s,s:s}", "iface_id", "eth0", "guest_mac", NETWORK_GUEST_MAC,
		                 "host_dev_name", NETWORK_TAP);
	case 7:
		*target = "/actions";
		return json_pack("{s:s}", "action_type", "InstanceStart");
	default:
		return NULL;
	}
}
