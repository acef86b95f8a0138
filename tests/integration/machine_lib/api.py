"""What the API answers, without and with a started guest."""

import json
import socket

from harness import Machine, Settings, check, equal, make_file, ready, until

AFTER = "The requested operation is not supported after starting the microVM."
BEFORE = "The requested operation is not supported before starting the microVM."


def refused(machine, name, method, path, body=None, says="", status=400, **more):
    seen, message = machine.fault(method, path, body, **more)
    check("refused: " + name, seen == status and message is not None and says in message, "%s %r" % (seen, message))


def defaults():
    """A machine that has not been configured."""
    machine = Machine()
    root = machine.get("/")
    equal("GET / tells id and state", (root["id"], root["state"]), (machine.id, "Not started"))
    equal("GET / has Firecracker's fields", sorted(root), ["app_name", "id", "state", "vmm_version"])
    equal("GET /version", list(machine.get("/version")), ["firecracker_version"])
    equal("defaults of GET /machine-config", machine.get("/machine-config"),
          {"vcpu_count": 1, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False, "huge_pages": "None"})
    config = machine.get("/vm/config")
    check("GET /vm/config has every resource", set(config) >= {
        "balloon", "boot-source", "cpu-config", "drives", "entropy", "logger", "machine-config", "metrics", "mmds-config",
        "network-interfaces", "vsock"}, sorted(config))
    equal("GET /vm/config: no devices", (config["drives"], config["network-interfaces"], config["vsock"]), ([], [], None))
    path = make_file("defaults.img", 1 << 20)
    machine.put("/drives/a", {"drive_id": "a", "path_on_host": path, "is_root_device": False})
    drive = machine.get("/vm/config")["drives"][0]
    equal("a drive's defaults", {key: drive[key] for key in ("is_read_only", "cache_type", "io_engine", "rate_limiter")},
          {"is_read_only": False, "cache_type": "Unsafe", "io_engine": "Sync", "rate_limiter": None})
    machine.put("/drives/a", {"drive_id": "a", "path_on_host": path, "is_root_device": False, "is_read_only": True})
    equal("PUT of the same drive replaces it", [d["is_read_only"] for d in machine.get("/vm/config")["drives"]], [True])
    machine.put("/machine-config", {"vcpu_count": 2, "mem_size_mib": 256})
    machine.patch("/machine-config", {"mem_size_mib": 512})
    config = machine.get("/machine-config")
    equal("PATCH changes what it names", (config["vcpu_count"], config["mem_size_mib"]), (2, 512))
    equal("SIGTERM ends it", machine.end(), 0)


def http_rules():
    """What is no request of the API."""
    machine = Machine()
    for method in ("DELETE", "POST", "OPTIONS"):
        refused(machine, method, method, "/machine-config", {}, "Invalid request method and/or path")
    for method, path in (("GET", "/nothing"), ("PUT", "/"), ("GET", "/actions"), ("PATCH", "/boot-source"),
                         ("PUT", "/drives/"), ("PUT", "/drives/a/b"), ("GET", "/drives/a"), ("GET", "/machine-config/x")):
        refused(machine, "%s %s" % (method, path), method, path, None if method == "GET" else {},
                "Invalid request method and/or path")
    refused(machine, "a GET with a body", "GET", "/machine-config", {}, "GET request cannot have a body")
    refused(machine, "a PUT without one", "PUT", "/machine-config", says="Empty PUT request")
    refused(machine, "a PATCH without one", "PATCH", "/machine-config", says="Empty PATCH request")
    for name, raw in (("no JSON", "{"), ("an array", "[]"), ("a string", '"x"'), ("a second value", "{} {}"),
                      ("bytes that are not UTF-8", b'{"vcpu_count": "\xff"}'), ("a key given twice", '{"vcpu_count":1,"vcpu_count":2}'),
                      ("a deep one", "[" * 20000)):
        refused(machine, "a body that is " + name, "PUT", "/machine-config", raw=raw)
    big = json.dumps({"vcpu_count": 1, "mem_size_mib": 128, "x": "y" * 51200})
    status, body = machine.api("PUT", "/machine-config", raw=big)
    check("a body of more than 51200 bytes is refused", status in (400, 413) and body, "%s %s" % (status, body))
    body = json.dumps({"vcpu_count": 3, "mem_size_mib": 128})
    machine.api("PUT", "/machine-config", raw=body + " " * (51200 - len(body)))
    equal("one of 51200 is not", machine.get("/machine-config")["vcpu_count"], 3)
    for raw in (b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"PUT /actions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                b"PUT /actions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50000 + b"\r\n"):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(machine.socket)
            try:
                stream.sendall(raw)
                answer = stream.recv(4096)
            except OSError:
                answer = b""
        check("not HTTP: %r" % raw[:40], answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer)
    # Idle ones beyond the limit must not lock others out for ever once they go.
    idle = [socket.socket(socket.AF_UNIX) for _ in range(30)]
    for stream in idle:
        stream.setblocking(False)
        stream.connect_ex(machine.socket)
    for stream in idle:
        stream.close()
    check("it answers after all that", until(lambda: machine.api("GET", "/")[0] == 200))


def fields():
    """Values that are refused, each by a message that names them."""
    machine = Machine()
    config = {"vcpu_count": 1, "mem_size_mib": 128}
    refused(machine, "an unknown field", "PUT", "/machine-config", {**config, "memory": 1}, "memory")
    refused(machine, "a missing one", "PUT", "/machine-config", {"vcpu_count": 1}, "mem_size_mib")
    for key, value in (("vcpu_count", 0), ("vcpu_count", 33), ("vcpu_count", "1"), ("vcpu_count", 1.5), ("vcpu_count", None),
                       ("mem_size_mib", 0), ("mem_size_mib", -128), ("mem_size_mib", 1 << 40), ("smt", True), ("smt", 1),
                       ("track_dirty_pages", "yes"), ("huge_pages", "4M"), ("cpu_template", "T9")):
        refused(machine, "%s of %r" % (key, value), "PUT", "/machine-config", {**config, key: value}, key)
    refused(machine, "an empty PATCH", "PATCH", "/machine-config", {})
    refused(machine, "PATCH to no vCPU", "PATCH", "/machine-config", {"vcpu_count": 0}, "vcpu_count")
    equal("nothing of it was kept", machine.get("/machine-config")["vcpu_count"], 1)
    image = make_file("fields.img", 1 << 20)
    drive = {"drive_id": "a", "path_on_host": image, "is_root_device": False}
    refused(machine, "a drive of another id than the path's", "PUT", "/drives/b", drive, "drive_id")
    for missing in ("drive_id", "path_on_host", "is_root_device"):
        refused(machine, "a drive without " + missing, "PUT", "/drives/a",
                {key: value for key, value in drive.items() if key != missing}, missing)
    for key, value in (("cache_type", "Fast"), ("io_engine", "Threads"), ("rate_limiter", {"iops": {}}), ("rate_limiter", 1),
                       ("rate_limiter", {"ops": {"size": 1}}), ("rate_limiter", {"ops": {"size": -1, "refill_time": 1}}),
                       ("rate_limiter", {"bandwidth": {"size": 1, "refill_time": 1, "speed": 1}}), ("readonly", True),
                       ("is_read_only", 1), ("layers", "x"), ("layers", [1]), ("layers", ["x"] * 1000)):
        word = {"layers": "layer", "rate_limiter": ""}.get(key, key)
        refused(machine, "a drive's %s of %.60r" % (key, value), "PUT", "/drives/a", {**drive, key: value}, word)
    refused(machine, "a drive's id with a slash's cousin", "PUT", "/drives/a%2e", {**drive, "drive_id": "a%2e"}, "drive_id")
    refused(machine, "an id of 64 characters", "PUT", "/drives/" + "a" * 64, {**drive, "drive_id": "a" * 64}, "drive_id")
    machine.put("/drives/a", {**drive, "is_root_device": True})
    refused(machine, "a second root device", "PUT", "/drives/b", {**drive, "drive_id": "b", "is_root_device": True}, "root")
    for cid in (0, 1, 2, 1 << 32, -1, "3"):
        refused(machine, "guest_cid %r" % cid, "PUT", "/vsock", {"guest_cid": cid, "uds_path": "/x"}, "guest_cid")
    refused(machine, "a vsock without uds_path", "PUT", "/vsock", {"guest_cid": 3}, "uds_path")
    refused(machine, "an unknown field of entropy", "PUT", "/entropy", {"source": "x"}, "source")
    refused(machine, "an unknown field of serial", "PUT", "/serial", {"path": "x"}, "path")
    refused(machine, "a level of the log", "PUT", "/logger", {"level": "Loud"}, "Loud")
    refused(machine, "a log that cannot be opened", "PUT", "/logger", {"log_path": "/nowhere/log"}, "/nowhere/log")
    refused(machine, "metrics that cannot be opened", "PUT", "/metrics", {"metrics_path": "/nowhere/m"}, "/nowhere/m")
    refused(machine, "an unknown action", "PUT", "/actions", {"action_type": "Explode"}, "Explode")
    refused(machine, "an action without type", "PUT", "/actions", {}, "action_type")


def before():
    """What needs a started guest."""
    machine = Machine()
    refused(machine, "a start without kernel", "PUT", "/actions", {"action_type": "InstanceStart"}, "boot source")
    for name, method, path, body in (
            ("pause", "PATCH", "/vm", {"state": "Paused"}),
            ("a drive's change", "PATCH", "/drives/a", {"drive_id": "a"}),
            ("a snapshot", "PUT", "/snapshot/create", {"snapshot_path": "/x", "mem_file_path": "/y"}),
            ("a working set", "PUT", "/snapshot/working-set", {"working_set_path": "/x"}),
            ("a flush of the metrics", "PUT", "/actions", {"action_type": "FlushMetrics"})):
        refused(machine, name + " before the start", method, path, body, BEFORE)
    for kernel, word in (("/nowhere/vmlinux", "/nowhere/vmlinux"), (Settings.initrd, "not an ELF")):
        other = Machine()
        status, message = other.fault("PUT", "/boot-source", {"kernel_image_path": kernel})
        if status == 204:
            status, message = other.fault("PUT", "/actions", {"action_type": "InstanceStart"})
        check("refused: kernel %s" % kernel, status == 400 and message and word in message, "%s %s" % (status, message))
    other = Machine()
    drive = {"drive_id": "a", "path_on_host": "/nowhere/disk", "is_root_device": False}
    status, message = other.fault("PUT", "/drives/a", drive)
    if status == 204:
        other.configure()
        status, message = other.fault("PUT", "/actions", {"action_type": "InstanceStart"})
    check("refused: a drive whose file is not there", status == 400 and message and "/nowhere/disk" in message,
          "%s %s" % (status, message))


def after():
    """What a started guest's machine refuses, and its states."""
    machine = Machine.load(ready()[0])
    for name, method, path, body in (
            ("machine-config", "PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128}),
            ("machine-config", "PATCH", "/machine-config", {"vcpu_count": 1}),
            ("boot-source", "PUT", "/boot-source", {"kernel_image_path": Settings.kernel}),
            ("a drive", "PUT", "/drives/a", {"drive_id": "a", "path_on_host": "/x", "is_root_device": False}),
            ("vsock", "PUT", "/vsock", {"guest_cid": 3, "uds_path": "/x"}), ("entropy", "PUT", "/entropy", {}),
            ("a load", "PUT", "/snapshot/load", {"snapshot_path": "/x", "mem_file_path": "/x"}),
            ("a start", "PUT", "/actions", {"action_type": "InstanceStart"}),
            ("metrics", "PUT", "/metrics", {"metrics_path": "/x"}), ("logger", "PUT", "/logger", {"level": "Info"})):
        refused(machine, "%s of %s after the start" % (method, name), method, path, body, AFTER)
    equal("GET / tells that it runs", machine.get("/")["state"], "Running")
    refused(machine, "an unknown state", "PATCH", "/vm", {"state": "Stopped"}, "Stopped")
    refused(machine, "a snapshot of a running machine", "PUT", "/snapshot/create",
            {"snapshot_path": machine.path("s"), "mem_file_path": machine.path("m")}, "paused")
    refused(machine, "a change of a drive that is not there", "PATCH", "/drives/a", {"drive_id": "a"}, "a")
    machine.pause()
    machine.pause()
    equal("GET / tells that it is paused", machine.get("/")["state"], "Paused")
    for body, word in (({"snapshot_path": "/nowhere/s", "mem_file_path": machine.path("m")}, "/nowhere/s"),
                       ({"snapshot_path": machine.path("s"), "mem_file_path": "/nowhere/m"}, "/nowhere/m"),
                       ({"snapshot_path": machine.path("s"), "mem_file_path": machine.path("m"), "snapshot_type": "Half"}, "Half"),
                       ({"snapshot_path": machine.path("s")}, "mem_file_path")):
        refused(machine, "a snapshot with %s" % word, "PUT", "/snapshot/create", body, word)
    machine.resume()
    machine.resume()
    equal("it runs on after all that", machine.out("echo here"), "here")
    equal("GET /vm/config tells what was configured", machine.get("/vm/config")["vsock"], {"guest_cid": 3, "uds_path": machine.vsock})


PARTS = [defaults, http_rules, fields, before, after]
