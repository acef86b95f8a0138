"""The internet of a test: a server beyond the host that the service runs on, in a name space of its own."""

from client import on_service_host, run_process

URL = "http://198.51.100.7:8099/hello"  # TEST-NET-2 (RFC 5737)

# Also said again after the host has died: what is there is left alone.
BEGIN = """set -e
ip netns list | grep -q atoll-world && exit
ip netns add atoll-world
ip link add world0 type veth peer name eth0 netns atoll-world
ip addr add 198.51.100.1/24 dev world0
ip link set world0 up
ip -n atoll-world addr add 198.51.100.7/24 dev eth0
ip -n atoll-world link set lo up
ip -n atoll-world link set eth0 up
mkdir -p /run/world
echo hello >/run/world/hello
setsid ip netns exec atoll-world python3 -m http.server 8099 --directory /run/world >/dev/null 2>&1 </dev/null &
until ip netns exec atoll-world busybox wget -qO /dev/null http://127.0.0.1:8099/hello 2>/dev/null; do sleep 0.1; done
"""
END = "pkill -f '[h]ttp.server 8099'; ip link del world0; ip netns del atoll-world; rm -rf /run/world"


def begin():
    on_service_host(BEGIN)


def end():
    on_service_host(END)


def reached(sandbox):
    """Whether the guest has an answer from there."""
    return run_process(sandbox, "curl -s -m 8 %s || echo none" % URL).strip() == "hello"
