// The page that `make bench` writes.
import { readFileSync } from 'node:fs'
import os from 'node:os'

const ms = (value) => (value === null || value === undefined ? '-' : value < 10 ? value.toFixed(2) : value.toFixed(0))

function row(name, summary, target = '') {
  return `| ${name} | ${summary.count} | ${ms(summary.p50)} | ${ms(summary.p95)} | ${ms(summary.max)} | ${target} |`
}

function single(name, value, unit, target = '') {
  const text = value === null || value === undefined ? 'not measured' : `${ms(value)} ${unit}`
  return `| ${name} | ${text} | ${target} |`
}

function version(name) {
  const path = new URL(`./node_modules/${name}/package.json`, import.meta.url)
  return JSON.parse(readFileSync(path, 'utf8')).version
}

function mebibytes(kilobytes) {
  return kilobytes === null ? null : kilobytes / 1024
}

export function renderReport(figures) {
  const cpus = os.cpus()
  const { host } = figures
  return `# Benchmarks

Written by \`make bench\` down to "Beside other monitors"; do not edit that. ${new Date().toISOString().slice(0, 10)}, Atoll ${process.env.ATOLL_COMMIT ?? 'unknown'}.

- Machine: ${cpus.length} x ${cpus[0]?.model ?? 'unknown CPU'}, ${(os.totalmem() / 2 ** 30).toFixed(0)} GiB, Linux ${os.release()}
- Service mode: ${figures.mode}
- Client: Node ${process.version}, e2b ${version('e2b')}, @e2b/code-interpreter ${version('@e2b/code-interpreter')}, on the same machine

## What a client waits for

Milliseconds, measured around the SDK's call, one call at a time but where it says otherwise.

| what | calls | p50 | p95 | worst | target p50 |
| --- | --- | --- | --- | --- | --- |
${row('create `base`', figures.base.created, 250)}
${row('create `base` and run a first command in it', figures.base.usable)}
${row('create `code-interpreter-v1`', figures.interpreter.created, 250)}
${row('create `code-interpreter-v1` and run a first command in it', figures.interpreter.usable)}
${row('kill', figures.base.killed)}
${row("command round trip, `commands.run('true')`", figures.command, 60)}
${row('file round trip, `files.exists`', figures.exists)}
${row("`runCode('1+1')`", figures.runCode, 60)}
${row('each of ten sandboxes created at once', figures.atOnce.each)}

| what | measured | target |
| --- | --- | --- |
${single("the first `runCode('1+1')` in a sandbox", figures.firstRun, 'ms')}
${single('ten sandboxes created at once: until the last is usable', figures.atOnce.total, 'ms')}
${single("cold boot, monitor start to the guest's init", host.coldBootMs, 'ms')}
${single("restore, snapshot load to the guest's first instruction", host.restoreMs, 'ms')}
${single("monitor's private memory beyond the guest's pages", mebibytes(host.monitorKilobytes), 'MiB', '3 MiB')}
${single("agent's private memory in the guest", mebibytes(host.agentKilobytes), 'MiB')}

## How it is measured

- The API answers a create when the sandbox's agent has taken its identity, so the answer means usable; the row below it
  adds a command to prove it.
- \`commands.run\` starts a login shell in the guest, as the SDK asks for: most of its time is the guest's fork and exec.
- The monitor's memory is the sum of \`Private_Clean\` and \`Private_Dirty\` in its \`/proc/PID/smaps\`, without the mapping of the
  template's memory file, whose private pages are the guest's.
- Cold boot and restore are told by the programs in \`tests/bench/hooks/\`, run on the service's host; the median.

## On hardware

In the lab host all of this runs under software emulation of the CPU, about 15 times slower than native, and each exit from
the guest or page fault costs tens of microseconds instead of one or two. With usable KVM the same programs run on the host itself.
`
}
