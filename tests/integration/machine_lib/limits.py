"""Rate limits of drives and entropy, measured from inside against this machine's clock."""

import time

from harness import Machine, Unexpected, check, finish, make_file, until

MIB = 1 << 20
TOLERANCE = 0.05
TRIES = 8  # a stall of the emulator spoils a measurement, a wrong limit all of them


def measure(machine, path, verb, size, drain, count):
    """Requests per second, without the first `drain`: they empty a bucket that is full."""
    with machine.command("guest_shell io %s %s %d %d %d" % (path, verb, size, drain, count)) as stream:
        data = b""
        while not data.startswith(b"start\n"):
            piece = stream.recv(100)
            if not piece:
                raise Unexpected("io ended: %r" % data)
            data += piece
        begin = time.monotonic()
        while b"end\n" not in data:
            piece = stream.recv(100)
            if not piece:
                raise Unexpected("io ended: %r" % data)
            data += piece
        return count / (time.monotonic() - begin)


def rate(name, machine, path, verb, size, drain, count, wanted):
    seen = []
    while len(seen) < TRIES and (not seen or abs(seen[-1] - wanted) > TOLERANCE * wanted):
        seen.append(measure(machine, path, verb, size, drain, count))
    check("%s: %.0f requests of %d bytes a second" % (name, wanted, size), abs(seen[-1] - wanted) <= TOLERANCE * wanted,
          ", ".join("%.2f" % one for one in seen))


def bucket(size, milliseconds=1000, burst=0):
    return {"size": size, "refill_time": milliseconds, "one_time_burst": burst}


def limits():
    """Limits of a drive and of the entropy device, and their change at run time."""
    path = make_file("limit.img", 16 * MIB)
    machine = Machine().configure(entropy=False, drives=[{
        "drive_id": "d", "path_on_host": path, "rate_limiter": {"bandwidth": bucket(MIB)}}])
    machine.put("/entropy", {"rate_limiter": {"bandwidth": bucket(4000, 1000)}})
    machine.start().wait()
    rate("bandwidth, reads", machine, "/dev/vda", "read", 32768, 60, 80, 32)
    rate("bandwidth, writes", machine, "/dev/vda", "write", 65536, 30, 40, 16)

    def patch(**limits):
        machine.patch("/drives/d", {"drive_id": "d", "rate_limiter": limits})

    patch(bandwidth=bucket(0, 0), ops=bucket(40))
    rate("operations, reads", machine, "/dev/vda", "read", 4096, 90, 100, 40)
    patch(ops=bucket(20, 1000))
    rate("operations, a slower bucket", machine, "/dev/vda", "write", 4096, 45, 50, 20)
    patch(bandwidth=bucket(2 * MIB, 1000), ops=bucket(20, 1000))
    rate("both: the tighter one holds", machine, "/dev/vda", "read", 4096, 50, 50, 20)
    patch(bandwidth=bucket(0, 0), ops=bucket(0, 0))
    seen = []
    while len(seen) < TRIES and (not seen or seen[-1] <= 50):
        seen.append(measure(machine, "/dev/vda", "read", 4096, 0, 100))
    check("limits that were taken away do not hold", seen[-1] > 50, seen)

    def throttled():
        name = 'rate_limiter_throttled_events{machine="%s",device="d"}' % machine.id
        return next(int(line.split()[-1]) for line in machine.api("GET", "/metrics")[1].splitlines() if name in line)

    before = throttled()
    check("throttling is counted", before > 0)
    # The guest's driver asks for as much as its buffer holds: bytes are what counts.
    rate("entropy", machine, "/dev/hwrng", "read", 400, 25, 25, 10)
    patch(ops=bucket(5, 5000000))  # one in 1000 s
    # A guest that waits for tokens is paused and goes on.
    with machine.command("guest_shell io /dev/vda read 4096 6 2") as stream:
        check("it waits for tokens", until(lambda: throttled() > before))
        begin = time.monotonic()
        machine.pause()
        took = time.monotonic() - begin
        check("a pause does not wait for tokens", took < 100, took)
        machine.resume()
        patch(ops=bucket(5, 2500))
        output, status = finish(stream)
        check("and the requests are answered", output.endswith("end\n") and status == 0, (output, status))


PARTS = [limits]
