#!/usr/bin/python3
"""Kill atoll-api, atoll-node or the lab host at a random moment of a random transition, again and again, and look: every
sandbox is in its old or its new state, with all that it had; nothing is left of what is gone.

crashes.py [--rounds N] [--seed N] [--hosts N]; the service runs. Ends with "N passed, N failed".
"""

import argparse
import os
import random
import sys
import threading
import time

from client import Broken, agent, api, has_process, read_file, request, start_on_service_host, start_process, write_file
import leaks

POPULATION = 4  # sandboxes that are kept
SETTLE_EVERY = 25  # rounds: all ends, and what is left is compared with the beginning
RECOVERY = 180  # seconds until the service must answer again
HOUR = 3600

passed = failed = 0


def say(text):
    print(text, flush=True)


def check(name, problem):
    global passed, failed
    passed += problem is None
    failed += problem is not None
    say("ok: " + name if problem is None else "FAILED: %s: %s" % (name, problem))


class Sandbox:
    """What we know of a sandbox: the states it may be in, and what it must hold."""

    def __init__(self, name, token):
        self.id = name
        self.states = {"running"}
        self.token = token

    def furnish(self):
        """Something on disk, something in memory, something that runs."""
        write_file(self.id, "/home/user/token", self.token)
        write_file(self.id, "/dev/shm/token", self.token)
        start_process(self.id, "exec sleep 86400", "crash-" + self.token)

    def verify(self):
        """None, or what is missing of a running one."""
        for path in ("/home/user/token", "/dev/shm/token"):
            held = read_file(self.id, path)
            if held != self.token:
                return "%s holds %r instead of %r" % (path, held[:40], self.token)
        return None if has_process(self.id, "crash-" + self.token) else "its process is gone"


def state_of(name):
    """running, paused, or gone."""
    status, body = api("GET", "/sandboxes/" + name)
    if status == 404:
        return "gone"
    if status != 200:
        raise Broken("state of %s: status %d: %s" % (name, status, body))
    return body["state"]


def eventually(function, seconds):
    """The first answer that is None; else the last one, or what was raised."""
    end = time.monotonic() + seconds
    while True:
        try:
            problem = function()
        except Broken as error:
            problem = str(error)
        if problem is None or time.monotonic() > end:
            return problem
        time.sleep(0.2)


class World:
    def __init__(self, chance):
        self.random = chance
        self.sandboxes = []
        self.snapshots = []  # (id, token)
        self.others = set()  # snapshots that were there before
        self.count = 0
        self.seconds = {}  # how long each transition takes when nobody is killed

    def token(self):
        self.count += 1
        return "token-%d-%d" % (os.getpid(), self.count)

    def add(self, template="base"):
        status, body = api("POST", "/sandboxes", {"templateID": template, "timeout": HOUR, "metadata": {"crash": "test"}})
        if status != 201:
            raise Broken("create: status %d: %s" % (status, body))
        sandbox = Sandbox(body["sandboxID"], self.token())
        self.sandboxes.append(sandbox)
        sandbox.furnish()

    def fill(self):
        while len(self.sandboxes) < POPULATION:
            self.add()

    def pick(self, state):
        found = [sandbox for sandbox in self.sandboxes if sandbox.states == {state}]
        return self.random.choice(found) if found else None

    def measure(self):
        """One of each, undisturbed."""
        for kind in ("create", "pause", "resume", "snapshot", "fork", "kill"):
            sandbox, target, call = getattr(self, kind)()
            begin = time.monotonic()
            status, body = api(*call)
            self.seconds[kind] = time.monotonic() - begin
            if status >= 300:
                raise Broken("%s: status %d: %s" % (kind, status, body))
            if target:
                sandbox.states = {target}
            if target == "gone":
                self.sandboxes.remove(sandbox)
            if kind == "snapshot":
                self.snapshots.append((body["snapshotID"], sandbox.token))
        say("undisturbed: " + ", ".join("%s %.0f ms" % (kind, seconds * 1000) for kind, seconds in self.seconds.items()))

    # Each transition: (the sandbox, what it may become, the request), or None when there is no sandbox for it.

    def create(self):
        return None, None, ("POST", "/sandboxes", {"templateID": "base", "timeout": HOUR, "metadata": {"crash": "new"}})

    def pause(self):
        sandbox = self.pick("running")
        return sandbox and (sandbox, "paused", ("POST", "/sandboxes/%s/pause" % sandbox.id, {}))

    def resume(self):
        sandbox = self.pick("paused")
        return sandbox and (sandbox, "running", ("POST", "/sandboxes/%s/resume" % sandbox.id, {"timeout": HOUR}))

    def kill(self):
        sandbox = self.random.choice(self.sandboxes)
        return sandbox, "gone", ("DELETE", "/sandboxes/" + sandbox.id, None)

    def snapshot(self):
        sandbox = self.pick("running")
        return sandbox and (sandbox, None, ("POST", "/sandboxes/%s/snapshots" % sandbox.id, {}))

    def fork(self):
        sandbox = self.pick("running")
        return sandbox and (sandbox, None, ("POST", "/sandboxes/%s/fork" % sandbox.id, {"count": 2, "timeout": HOUR}))


# --- killing ---


def kill_daemon_script(name, delay):
    """Nothing is started between the word and the blow: a process takes its time under emulation."""
    return "until pid=$(pgrep -x %s); do sleep 0.1; done; echo ready; read -t %.3f line; kill -9 $pid" % (name, delay)


def lab_pid():
    """The process of the lab host, or None where there is none."""
    data = os.environ.get("ATOLL_DATA", "/var/lib/atoll")
    try:
        with open(os.path.join(data, "lab", "pid")) as file:
            keeper = int(file.read())
        with open("/proc/%d/task/%d/children" % (keeper, keeper)) as file:
            children = [int(pid) for pid in file.read().split()]
    except (OSError, ValueError):
        return None
    for pid in children:
        with open("/proc/%d/comm" % pid) as file:
            if file.read().startswith("qemu-system"):
                return pid
    return None


def run_with_crash(victim, delay, call):
    """Send a request and kill the victim `delay` seconds later. The answer, or None."""
    answer = []

    def ask():
        try:
            answer.append(api(*call, timeout=30))
        except Broken:
            pass

    thread = threading.Thread(target=ask)
    if victim == "host":
        pid = lab_pid()
        thread.start()
        time.sleep(delay)
        os.kill(pid, 9)
    else:
        killer = start_on_service_host(kill_daemon_script(victim, delay))
        killer.stdout.readline()
        thread.start()
        killer.wait()
        killer.stdin.close()
        killer.stdout.close()
    thread.join()
    return answer[0] if answer else None


def wait_for_service():
    """Health tells that the API and the node agree on what runs."""
    def answers():
        status, body = request(os.environ["E2B_API_URL"], "GET", "/health", timeout=10)
        return None if status == 200 else "status %d: %s" % (status, body)

    return eventually(answers, RECOVERY)


# --- one round ---


def expect_host_lost(world):
    """What ran in a host that died is gone; what was paused is not."""
    for sandbox in world.sandboxes:
        if "running" in sandbox.states:
            sandbox.states.discard("running")
            sandbox.states.add("gone")


def look_at(sandbox):
    """None when it is where it may be, and whole."""
    def settled():
        state = state_of(sandbox.id)
        if state not in sandbox.states:
            return "it is %s instead of %s" % (state, " or ".join(sorted(sandbox.states)))
        problem = sandbox.verify() if state == "running" else None
        if problem is None:
            sandbox.states = {state}
        return problem

    problem = eventually(settled, 60)
    return problem and "%s: %s" % (sandbox.id, problem)


def strangers(world):
    """Those that the service lists and we did not know: of a create or a fork whose answer was lost."""
    status, body = api("GET", "/v2/sandboxes?state=running,paused&limit=100")
    if status != 200:
        raise Broken("list: status %d" % status)
    known = {sandbox.id for sandbox in world.sandboxes}
    return [item["sandboxID"] for item in body if item["sandboxID"] not in known]


def dismiss_strangers(world, allowed):
    """They must answer, and go when they are told to; there may be none unless something was being made."""
    def gone():
        found = strangers(world)
        if found and not allowed:
            return "sandboxes that nobody made: " + " ".join(found)
        for name in found:
            if state_of(name) == "running" and agent(name, "GET", "/health")[0] != 204:
                return "%s does not answer" % name
            status = api("DELETE", "/sandboxes/" + name)[0]
            if status not in (204, 404):
                return "%s cannot be killed: status %d" % (name, status)
        return None if not strangers(world) else "they come back"

    return eventually(gone, 60)


def take_snapshots(world, sandbox):
    """Those of it that are listed must be of use: one begins from each new one."""
    token = sandbox.token

    def usable():
        status, body = api("GET", "/snapshots?sandboxID=" + sandbox.id)
        if status != 200:
            return "snapshots: status %d" % status
        known = world.others | {name for name, _ in world.snapshots}
        for item in body:
            name = item["snapshotID"]
            if name in known:
                continue
            status, made = api("POST", "/sandboxes", {"templateID": name, "timeout": HOUR})
            if status != 201:
                return "snapshot %s: status %d: %s" % (name, status, made)
            held = read_file(made["sandboxID"], "/dev/shm/token")
            api("DELETE", "/sandboxes/" + made["sandboxID"])
            if held != token:
                return "snapshot %s holds %r instead of %r" % (name, held, token)
            world.snapshots.append((name, token))
        return None

    return eventually(usable, 60)


def play(world, number, hosts_left):
    kinds = ["create", "pause", "pause", "resume", "resume", "snapshot", "fork", "kill"]
    victims = ["atoll-node"] * 5 + ["atoll-api"] * 4 + (["host"] * 1 if hosts_left else [])
    plan = None
    while plan is None:
        kind = world.random.choice(kinds)
        plan = getattr(world, kind)()
    sandbox, target, call = plan
    victim = world.random.choice(victims)
    delay = world.random.uniform(0, 1.2 * world.seconds[kind])
    if sandbox is not None and target:
        sandbox.states.add(target)
    answer = run_with_crash(victim, delay, call)
    title = "%d: %s, %s killed after %.0f ms, answer %s" % (number, kind, victim, delay * 1000, answer[0] if answer else "none")
    if target and answer and answer[0] < 300:
        sandbox.states = {target}  # what was answered with success has come about
    if victim == "host":
        expect_host_lost(world)
    problem = wait_for_service()
    for one in list(world.sandboxes):
        problem = problem or look_at(one)
        if problem or one.states == {"gone"}:
            world.sandboxes.remove(one)
    problem = problem or dismiss_strangers(world, kind in ("create", "fork"))
    if kind == "snapshot":
        problem = problem or take_snapshots(world, sandbox)
    check(title, problem)
    return victim == "host"


def wake_all(world):
    """Who is paused has kept all that it had."""
    for sandbox in world.sandboxes:
        if sandbox.states == {"paused"}:
            status, body = api("POST", "/sandboxes/%s/resume" % sandbox.id, {"timeout": HOUR})
            sandbox.states = {"running"}
            problem = "status %d: %s" % (status, body) if status != 201 else look_at(sandbox)
            check("%s wakes with all that it had" % sandbox.id, problem)


def end(name):
    status, body = api("DELETE", "/sandboxes/" + name)
    return None if status in (204, 404) else "status %d: %s" % (status, body)


def forget(world):
    """End all; what is left must be what there was in the beginning."""
    wake_all(world)
    for sandbox in world.sandboxes:
        # The node may have died just now, after its answer: then it cannot be asked yet.
        check("%s ends" % sandbox.id, eventually(lambda: end(sandbox.id), 60))
    world.sandboxes.clear()
    world.snapshots.clear()


def left_over(world, baseline):
    """A snapshot whose request was cut off may be told late: it goes now."""
    for item in api("GET", "/snapshots")[1]:
        if item["snapshotID"] not in world.others:
            api("DELETE", "/templates/" + item["snapshotID"])
    return leaks.compare(baseline)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=int(os.environ.get("CRASH_ROUNDS", "12")))
    arguments.add_argument("--seed", type=int, default=int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 30))
    arguments.add_argument("--hosts", type=int, default=int(os.environ.get("CRASH_HOSTS", "1")), help="how often the lab host is killed at most")
    options = arguments.parse_args()
    say("seed %d, %d rounds" % (options.seed, options.rounds))
    world = World(random.Random(options.seed))
    hosts = options.hosts if lab_pid() else 0
    baseline = leaks.settled()
    world.others = {item["snapshotID"] for item in api("GET", "/snapshots")[1]}
    world.fill()
    world.measure()
    dismiss_strangers(world, True)
    for number in range(1, options.rounds + 1):
        problem = eventually(world.fill, 60)
        if problem:
            check("%d: sandboxes can be made" % number, problem)
            break
        hosts -= play(world, number, hosts)
        if number % SETTLE_EVERY == 0 or number == options.rounds:
            forget(world)
            check("%d: nothing is left of what is gone" % number, eventually(lambda: left_over(world, baseline), 90))
    say("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())
