"""What E2B's suites said, by area, against what is expected of them (the format is described in `expected`).

report.py [--partial] RESULTS EXPECTED; ends with "N passed, N failed", where failed is what was not expected.
"""

import argparse
import collections
import fnmatch
import glob
import json
import os
import sys
import xml.etree.ElementTree as ElementTree

AIM = 95  # per cent of the tests that do not need E2B's own cloud
STATES = ("passed", "failed", "skipped")


class Rule:
    """A line of the expectations: what `kind` of failure tests of this name are."""

    def __init__(self, text, number):
        fields = [field.strip() for field in text.split("|")]
        if len(fields) != 3 or fields[0] not in ("cloud", "later", "fails", "may-fail") or not fields[2]:
            raise SystemExit("expected, line %d: not `cloud|later|fails|may-fail | PATTERN | REASON`: %r" % (number, text))
        self.kind, self.pattern, self.reason = fields
        self.used = False

    def matches(self, name):
        return fnmatch.fnmatchcase(name, self.pattern.replace("[", "[[]"))


def read_rules(path):
    with open(path) as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    return [Rule(line, number) for number, line in lines if line and not line.startswith("#")]


def of_vitest(path):
    """(name, state, message) of each test."""
    package = os.path.basename(path).split(".")[0]
    with open(path) as file:
        files = json.load(file)["testResults"]
    for tests in files:
        where = package + tests["name"].split("/packages/" + package)[1]
        if tests["status"] == "failed" and not any(test["status"] == "failed" for test in tests["assertionResults"]):
            yield where, "failed", tests.get("message", "")  # it could not be loaded, or prepared
        for test in tests["assertionResults"]:
            state = {"passed": "passed", "failed": "failed"}.get(test["status"], "skipped")
            yield where + " > " + test["fullName"], state, "\n".join(test.get("failureMessages") or [])


def of_pytest(path):
    seen = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        where = [part for part in case.get("classname", "").split(".") if not part.startswith("Test")]  # files, not classes
        name = "python-sdk/%s.py > %s" % ("/".join(where), case.get("name")) if where else "python-sdk/" + case.get("name", "?")
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        if wrong is not None:
            seen[name] = ("failed", (wrong.get("message") or "") + "\n" + (wrong.text or ""))
        elif case.find("skipped") is not None:
            seen[name] = ("skipped", "")
        else:
            seen.setdefault(name, ("passed", ""))
    for name, (state, message) in seen.items():
        yield name, state, message


def read_results(directory):
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        yield from of_vitest(path)
    for path in sorted(glob.glob(os.path.join(directory, "*.xml"))):
        yield from of_pytest(path)


def suite_of(name):
    """js-sdk and cli; Python by flavour."""
    package = name.split("/")[0]
    if package != "python-sdk":
        return package
    flavour = name.split("/")[2] if name.count("/") > 2 else "shared"
    return package + (" " + flavour if flavour in ("sync", "async") else " shared")


def area_of(name):
    """The folder below tests/, or the file when there is none."""
    parts = name.split(" > ")[0].split("/")
    return "/".join(parts[:-1]) or name


def table(title, rows):
    print("\n%-52s %7s %7s %7s" % ((title,) + STATES))
    for name in sorted(rows):
        print("%-52s %7d %7d %7d" % ((name,) + tuple(rows[name][state] for state in STATES)))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--partial", action="store_true", help="not all tests were run")
    arguments.add_argument("results")
    arguments.add_argument("expected")
    options = arguments.parse_args()
    rules = read_rules(options.expected)
    areas = collections.defaultdict(collections.Counter)
    suites = collections.defaultdict(collections.Counter)
    good = bad = 0
    for name, state, message in read_results(options.results):
        areas[area_of(name)][state] += 1
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if state == "failed" and rule is None:
            bad += 1
            print("FAILED: %s\n    %s" % (name, "\n    ".join(message.strip().split("\n")[:6])))
        elif state == "passed" and rule is not None and rule.kind == "fails":
            bad += 1
            print("FAILED: %s passes, and is expected to fail: %s" % (name, rule.reason))
        else:
            good += state == "passed"
        if rule is not None:
            rule.used = True
        if rule is None or rule.kind not in ("cloud", "later"):
            suites[suite_of(name)][state] += 1
    table("area", areas)
    table("suite, without what needs E2B's cloud or is later", suites)
    if not suites:
        bad += 1
        print("FAILED: no test was run")
    for name, counts in sorted(suites.items()):
        share = 100.0 * counts["passed"] / max(1, counts["passed"] + counts["failed"])
        print("%-52s %6.1f %%" % (name, share))
        if share < AIM and not options.partial:
            bad += 1
            print("FAILED: %s: less than %d %%" % (name, AIM))
    if not options.partial:
        packages = {suite.split()[0] for suite in suites}
        for rule in rules:
            if not rule.used and rule.pattern.split("/")[0] in packages:
                print("not needed: %s | %s" % (rule.pattern, rule.reason))
    print("%d passed, %d failed" % (good, bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
