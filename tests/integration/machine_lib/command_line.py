"""The monitor's command line, its log and its metrics."""

import json
import os

from harness import Machine, Settings, check, equal, exited, vmm

BAD_CONFIG = 152
BAD_ARGUMENTS = 153


def write(name, content):
    path = os.path.join(Settings.work, name)
    with open(path, "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content))
    return path


def arguments():
    """Arguments and configuration files."""
    status, out, _ = vmm("--version")
    check("--version", status == 0 and out.startswith("atoll-vmm v"), (status, out))
    status, out, _ = vmm("--snapshot-version")
    check("--snapshot-version", status == 0 and out.startswith("v"), (status, out))
    status, out, _ = vmm("--help")
    check("--help names each option", status == 0 and all("--" + name in out for name in (
        "api-sock", "id", "config-file", "no-api", "log-path", "level", "metrics-path", "boot-timer", "http-api-max-payload-size",
        "describe-snapshot", "start-time-us")), out)
    for bad in (["--nonsense"], ["word"], ["--id", ""], ["--id", "a_b"], ["--id", "../x"], ["--id", "a" * 65], ["--id"],
                ["--no-api"], ["--http-api-max-payload-size", "0"], ["--http-api-max-payload-size", "x"], ["--shell", "99"]):
        status, _, err = vmm(*bad)
        check("bad arguments: %.40s" % " ".join(bad), status == BAD_ARGUMENTS and err, (status, err))
    boot = {"boot-source": {"kernel_image_path": Settings.kernel}}
    for name, content, word in (("missing", None, "missing.json"), ("empty", "", ""), ("no JSON", "{", ""),
                                ("without kernel", {}, "boot-source"), ("unknown", {**boot, "drive": []}, "drive"),
                                ("unknown field", {**boot, "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "ram": 1}}, "ram"),
                                ("bad value", {**boot, "machine-config": {"vcpu_count": 99, "mem_size_mib": 128}}, "vcpu_count")):
        path = os.path.join(Settings.work, "missing.json") if content is None else write("config.json", content)
        status, _, err = vmm("--no-api", "--config-file", path)
        check("configuration file: %s" % name, status == BAD_CONFIG and word in err, (status, err))
    machine = Machine("--http-api-max-payload-size", "100")
    status = machine.api("PUT", "/machine-config", raw=json.dumps({"vcpu_count": 1, "mem_size_mib": 128}) + " " * 70)[0]
    equal("--http-api-max-payload-size", status, 413)
    status, _, err = vmm("--api-sock", machine.socket)
    check("a socket that is there already", status == 1 and machine.socket in err, (status, err))
    status, _, err = vmm("--describe-snapshot", write("no.state", "x" * 100))
    check("--describe-snapshot of no snapshot", status != 0 and "no.state" in err, (status, err))


def files():
    """A configuration file with log and metrics."""
    directory = os.path.join(Settings.work, "cf")
    os.mkdir(directory)
    log, metrics = os.path.join(directory, "log"), os.path.join(directory, "metrics")
    config = write("whole.json", {
        "boot-source": {"kernel_image_path": Settings.kernel, "initrd_path": Settings.initrd, "boot_args": Settings.boot_args},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        "vsock": {"guest_cid": 3, "uds_path": os.path.join(directory, "v.sock")}, "entropy": {}, "drives": [],
        "serial": {"serial_out_path": os.path.join(directory, "serial")}})
    machine = Machine("--config-file", config, "--log-path", log, "--level", "Debug", "--metrics-path", metrics)
    machine.vsock = os.path.join(directory, "v.sock")
    machine.wait()
    equal("a guest by --config-file", machine.out("nproc"), "1")
    equal("its API tells what it is", machine.get("/vm/config")["machine-config"]["mem_size_mib"], 128)

    def flushed():
        with open(metrics) as file:
            return [json.loads(line) for line in file.read().splitlines()]

    # Each minute there is another line by itself, which may come between.
    for _ in range(3):
        before = len(flushed())
        machine.out("dd if=/dev/hwrng of=/dev/null bs=1000 count=3 iflag=fullblock 2>/dev/null; echo x >/dev/console")
        machine.put("/actions", {"action_type": "FlushMetrics"})
        machine.put("/actions", {"action_type": "FlushMetrics"})
        lines = flushed()[before:]
        if len(lines) == 2:
            break
    equal("--metrics-path: a line per flush", len(lines), 2)
    first, second = lines
    check("metrics: Firecracker's groups", set(first) >= {
        "utc_timestamp_ms", "vcpu", "uart", "entropy", "vsock", "latencies_us", "get_api_requests", "put_api_requests",
        "patch_api_requests"}, sorted(first))
    check("metrics: entropy was counted", first["entropy"]["entropy_bytes"] >= 3000, first.get("entropy"))
    check("metrics: exits and console", first["vcpu"]["exit_mmio_write"] > 0 and first["uart"]["write_count"] > 0, first["vcpu"])
    equal("metrics: counters begin anew", (second["entropy"]["entropy_bytes"], second["put_api_requests"]["actions_count"]), (0, 1))
    check("metrics: time goes on", second["utc_timestamp_ms"] >= first["utc_timestamp_ms"] > 1600000000000)
    text = machine.api("GET", "/metrics")[1]
    check("GET /metrics: one sample per line", all(line.startswith("atoll_vmm_") and line.split("} ")[1].isdigit()
                                                   for line in text.splitlines()), text[:300])
    check("GET /metrics: sums, not differences", 'entropy_bytes{machine="%s"} 0' % machine.id not in text)
    before = len(flushed())
    equal("it ends", machine.end(), 0)
    check("a last line at the end", len(flushed()) > before, (before, len(flushed())))
    with open(log) as file:
        content = file.read()
    check("--log-path: the log is there", "the machine has ended" in content, content)
    equal("and not on the standard streams", machine.text("log"), "")
    alone = Machine("--no-api", "--config-file", config, "--boot-timer", api=False)
    alone.vsock = machine.vsock
    if os.path.exists(alone.vsock):
        os.unlink(alone.vsock)
    alone.wait()
    check("--no-api: no socket", not os.path.exists(alone.socket))
    alone.out("devmem 0xc0000000 8 123 || true")
    with alone.command("reboot -f"):
        equal("--no-api: a reboot ends it", exited(alone.process), 0)


PARTS = [arguments, files]
