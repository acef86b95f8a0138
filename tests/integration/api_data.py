"""Checks of tests/integration/api: metrics, logs and networks of sandboxes, volumes, figures and request ids."""
import http.client
import json
import os
import re
import socket
import time

UNKNOWN = "i" + "0" * 19


def refused(reply, status, message=None):
    assert reply.status == status, f"status {reply.status}: {reply.data[:300]}"
    assert reply.json["code"] == status and isinstance(reply.json["message"], str), reply.data
    if message:
        assert message in reply.json["message"], reply.data


def sample(time_s, share=12.5):
    return {"time_s": time_s, "cpu_count": 2, "cpu_used_pct": share, "mem_total": 512 << 20, "mem_used": 100 << 20,
            "mem_cache": 50 << 20, "disk_total": 1 << 30, "disk_used": 300 << 20}


def metrics(service, node):
    sandbox = service.create()
    assert service.ask("GET", f"/sandboxes/{sandbox}/metrics").json == []
    node.metrics[sandbox] = [sample(1_700_000_000 + 5 * i) for i in range(10)]
    found = service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=1700000010&end=1700000020").json
    assert [entry["timestampUnix"] for entry in found] == [1700000010, 1700000015, 1700000020], found
    assert found[0] == {"timestamp": "2023-11-14T22:13:30.000Z", "timestampUnix": 1700000010, "cpuCount": 2,
                        "cpuUsedPct": 12.5, "memUsed": 100 << 20, "memTotal": 512 << 20, "memCache": 50 << 20,
                        "diskUsed": 300 << 20, "diskTotal": 1 << 30}, found[0]
    assert len(service.ask("GET", f"/sandboxes/{sandbox}-abc/metrics").json) == 10
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=-1"), 400)
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=x"), 400)
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics?start=9&end=8"), 400)
    refused(service.ask("GET", f"/sandboxes/{UNKNOWN}/metrics"), 404)
    latest = service.ask("GET", f"/sandboxes/metrics?sandbox_ids={UNKNOWN},{sandbox}").json
    assert list(latest["sandboxes"]) == [sandbox], latest
    assert latest["sandboxes"][sandbox]["timestampUnix"] == 1700000045
    refused(service.ask("GET", "/sandboxes/metrics"), 400)
    refused(service.ask("GET", "/sandboxes/metrics?sandbox_ids=%2E%2E"), 400)
    refused(service.ask("GET", "/sandboxes/metrics?sandbox_ids=" + ",".join(["a"] * 101)), 400, "maximum is 100")
    assert service.ask("GET", "/sandboxes/metrics?sandbox_ids=" + ",".join(["a"] * 100)).json == {"sandboxes": {}}
    node.metrics[sandbox] = {"no": "list"}
    refused(service.ask("GET", f"/sandboxes/{sandbox}/metrics"), 500)


def logs(service, node):
    sandbox = service.create()
    assert service.ask("GET", f"/sandboxes/{sandbox}/logs").json == {"logs": [], "logEntries": []}
    team = node.sandboxes[sandbox]["team_id"]
    node.logs[sandbox] = {"team_id": team, "logs": [
        {"seq": 1, "time_ms": 1_700_000_000_123, "level": "info", "message": "process start",
         "fields": {"logger": "envd", "pid": "7"}}]}
    entry = {"timestamp": "2023-11-14T22:13:20.123Z", "level": "info", "message": "process start",
             "fields": {"logger": "envd", "pid": "7"}}
    old = service.ask("GET", f"/sandboxes/{sandbox}/logs?start=5&limit=7").json
    assert old["logEntries"] == [entry], old
    assert old["logs"][0]["timestamp"] == entry["timestamp"]
    assert json.loads(old["logs"][0]["line"]) == {"timestamp": entry["timestamp"], "level": "info", "pid": "7",
                                                  "message": "process start", "logger": "envd"}
    assert node.asked[-1] == f"/v1/sandboxes/{sandbox}/logs?limit=7&cursor_ms=5", node.asked[-1]
    new = service.ask("GET", f"/v2/sandboxes/{sandbox}/logs?cursor=9&level=warn&search=a%26b%20c").json
    assert new == {"logs": [entry]}, new
    assert node.asked[-1].endswith("/logs?limit=1000&direction=backward&cursor_ms=9&level=warn&search=a%26b%20c")
    for query in ("limit=1001", "limit=-1", "limit=x", "direction=up", "level=loud", "search=" + "s" * 257, "cursor="):
        refused(service.ask("GET", f"/v2/sandboxes/{sandbox}/logs?{query}"), 400)
    assert service.ask("DELETE", f"/sandboxes/{sandbox}").status == 204
    assert service.ask("GET", f"/v2/sandboxes/{sandbox}/logs").json == {"logs": [entry]}, "gone with its sandbox"
    node.logs[sandbox]["team_id"] = "another"
    refused(service.ask("GET", f"/v2/sandboxes/{sandbox}/logs"), 404)
    refused(service.ask("GET", f"/sandboxes/{UNKNOWN}/logs"), 404)
    refused(service.ask("GET", "/sandboxes/%2E%2E/logs"), 400)


CHECKS = [metrics, logs]
