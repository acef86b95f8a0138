"""The balloon: size, statistics, reporting and hinting of free pages."""

from harness import Machine, check, equal, until

MIB = 1 << 20

# Commands of free page hinting (virtio 1.2 section 5.5.6.5)
HINT_STOP = 0
HINT_DONE = 1


def resident(machine):
    """MiB of this machine's memory that the process has."""
    with open("/proc/%d/smaps_rollup" % machine.process.pid) as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:")) >> 10


def churn(machine, mib):
    """Use memory and give it back."""
    machine.out("dd if=/dev/zero of=/tmp/fill bs=1M count=%d 2>/dev/null; rm /tmp/fill" % mib)


def inflate():
    """Inflating frees this machine's memory."""
    machine = Machine().configure(memory=256)
    for body, word in (({"amount_mib": 1}, "deflate_on_oom"), ({"deflate_on_oom": True}, "amount_mib"),
                       ({"amount_mib": 1000, "deflate_on_oom": True}, "amount_mib"),
                       ({"amount_mib": -1, "deflate_on_oom": True}, "amount_mib"),
                       ({"amount_mib": 1, "deflate_on_oom": True, "size": 1}, "size")):
        status, message = machine.fault("PUT", "/balloon", body)
        check("refused: a balloon's %s" % word, status == 400 and message and word in message, (status, message))
    status, message = machine.fault("GET", "/balloon")
    check("refused: GET of a balloon that is not there", status == 400 and message, (status, message))
    machine.put("/balloon", {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 1})
    machine.start().wait()
    churn(machine, 80)
    before = resident(machine)
    machine.patch("/balloon", {"amount_mib": 128})
    equal("GET /balloon", machine.get("/balloon")["amount_mib"], 128)
    check("it inflates", until(lambda: machine.get("/balloon/statistics")["actual_mib"] == 128), lambda: machine.get("/balloon/statistics"))
    check("this machine's memory is freed", until(lambda: before - resident(machine) > 40),
          lambda: "%d MiB before, %d after" % (before, resident(machine)))
    stats = machine.get("/balloon/statistics")
    equal("statistics: the target", (stats["target_mib"], stats["target_pages"]), (128, 128 * 256))
    check("statistics: the guest's own", until(lambda: 0 < machine.get("/balloon/statistics").get("free_memory", 0) < 128 * MIB), stats)
    snapshot = machine.snapshot("balloon", resume=True)
    machine.patch("/balloon", {"amount_mib": 0})
    check("it deflates", until(lambda: machine.get("/balloon/statistics")["actual_mib"] == 0))
    churn(machine, 80)
    equal("and the guest has its memory again", machine.out("echo here"), "here")
    for path, body in (("/balloon", {"amount_mib": 300}), ("/balloon", {}), ("/balloon/statistics", {"stats_polling_interval_s": 0}),
                       ("/balloon/hinting/start", {})):
        status, message = machine.fault("PATCH", path, body)
        check("refused: PATCH %s %s" % (path, body), status == 400 and message, (status, message))
    machine.close()
    copy = Machine.load(snapshot)
    equal("a copy's balloon has its size", copy.get("/balloon/statistics")["actual_mib"], 128)
    copy.patch("/balloon", {"amount_mib": 16})
    check("and changes it", until(lambda: copy.get("/balloon/statistics")["actual_mib"] == 16))
    snapshot.remove()


def free_pages():
    """Free pages are reported and hinted."""
    machine = Machine().configure(memory=256)
    machine.put("/balloon", {"amount_mib": 0, "deflate_on_oom": False, "free_page_reporting": True, "free_page_hinting": True})
    machine.start().wait()
    idle = resident(machine)
    churn(machine, 80)
    high = resident(machine)
    check("reporting: what the guest frees comes back", until(lambda: resident(machine) < (high + idle) / 2 + 10),
          lambda: "%d MiB, %d high, %d now" % (idle, high, resident(machine)))
    machine.out("dd if=/dev/urandom of=/tmp/x bs=1M count=20 2>/dev/null; md5sum /tmp/x >/tmp/sum; md5sum -c /tmp/sum")
    status, _ = machine.api("PATCH", "/balloon/hinting/start", {"acknowledge_on_stop": True})
    equal("hinting starts", status, 204)
    # The run itself may be over before one can ask: what stays is the guest's stop (0), acknowledged by the host's done (1).
    ended = {"host_cmd": HINT_DONE, "guest_cmd": HINT_STOP}
    check("hinting: the guest tells of its end", until(lambda: machine.get("/balloon/hinting/status") == ended),
          lambda: machine.get("/balloon/hinting/status"))
    check("hinting: pages came in between", 'free_page_hint_count{machine="%s"} 0' % machine.id not in machine.api("GET", "/metrics")[1])
    equal("hinting stops", machine.api("PATCH", "/balloon/hinting/stop")[0], 204)
    machine.out("md5sum -c /tmp/sum")
    churn(machine, 60)
    equal("the guest's memory is right after that", machine.out("md5sum -c /tmp/sum").split()[-1], "OK")
    snapshot = machine.snapshot("reported")
    machine.close()
    copy = Machine.load(snapshot)
    equal("and in a copy", copy.out("md5sum -c /tmp/sum").split()[-1], "OK")
    churn(copy, 60)
    equal("which frees its own", copy.out("md5sum -c /tmp/sum").split()[-1], "OK")
    snapshot.remove()


PARTS = [inflate, free_pages]
