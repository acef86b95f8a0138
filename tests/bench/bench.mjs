// What a client waits for, measured through the official SDK, and what the service's host says of memory and
// restore times. Writes a page in Markdown to the path given.
import { readFile, writeFile } from 'node:fs/promises'
import { Sandbox as PlainSandbox } from 'e2b'
import { Sandbox } from '@e2b/code-interpreter'
import { hostFigures, serviceMode } from './bench-host.mjs'
import { renderReport } from './bench-report.mjs'

const SANDBOXES = Number(process.env.BENCH_SANDBOXES ?? 100)
const CALLS = Number(process.env.BENCH_CALLS ?? 200)
const AT_ONCE = 10
const opts = { requestTimeoutMs: 300_000 }

/** Milliseconds that one call takes. */
async function time(body) {
  const start = performance.now()
  await body()
  return performance.now() - start
}

function summarize(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
  return { count: sorted.length, p50: at(0.5), p95: at(0.95), max: sorted[sorted.length - 1] }
}

function progress(text) {
  process.stderr.write(`bench: ${text}\n`)
}

async function measureCreate(template, count) {
  const created = []
  const usable = []
  const killed = []
  for (let i = 0; i < count; i++) {
    const start = performance.now()
    const sandbox = await PlainSandbox.create(template, { ...opts, timeoutMs: 300_000 })
    created.push(performance.now() - start)
    await sandbox.commands.run('true', opts)
    usable.push(performance.now() - start)
    killed.push(await time(() => sandbox.kill(opts)))
    if ((i + 1) % 20 === 0) progress(`${template}: ${i + 1} of ${count} created`)
  }
  return { created: summarize(created), usable: summarize(usable), killed: summarize(killed) }
}

async function measureCalls(count, call) {
  for (let i = 0; i < 5; i++) await call()
  const times = []
  for (let i = 0; i < count; i++) times.push(await time(call))
  return summarize(times)
}

async function measureAtOnce(count) {
  const sandboxes = []
  const times = []
  const start = performance.now()
  await Promise.all(
    Array.from({ length: count }, async () => {
      const sandbox = await PlainSandbox.create('base', { ...opts, timeoutMs: 300_000 })
      times.push(performance.now() - start)
      sandboxes.push(sandbox)
    })
  )
  const total = performance.now() - start
  for (const sandbox of sandboxes) {
    await sandbox.commands.run('true', opts)
    await sandbox.kill(opts)
  }
  return { total, each: summarize(times) }
}

async function main() {
  const out = process.argv[2]
  const figures = { mode: await serviceMode() }
  progress(`service mode: ${figures.mode}`)
  figures.base = await measureCreate('base', SANDBOXES)
  figures.interpreter = await measureCreate('code-interpreter-v1', Math.ceil(SANDBOXES / 5))

  const sandbox = await Sandbox.create({ ...opts, timeoutMs: 3_600_000 })
  progress('commands')
  figures.command = await measureCalls(CALLS, () => sandbox.commands.run('true', opts))
  figures.exists = await measureCalls(CALLS, () => sandbox.files.exists('/etc/hostname', opts))
  progress('runCode')
  figures.firstRun = await time(() => sandbox.runCode('1+1', opts))
  figures.runCode = await measureCalls(CALLS, async () => {
    const { text } = await sandbox.runCode('1+1', opts)
    if (text !== '2') throw new Error(`1+1 is ${text}`)
  })
  progress('host')
  figures.host = await hostFigures(sandbox)
  await sandbox.kill(opts)

  progress(`${AT_ONCE} at once`)
  figures.atOnce = await measureAtOnce(AT_ONCE)
  // What tests/bench/peers has measured is entered by hand, and stays.
  const before = await readFile(out, 'utf8').catch(() => '')
  const peers = before.indexOf('## Beside other monitors')
  await writeFile(out, renderReport(figures) + (peers < 0 ? '' : `\n${before.slice(peers)}`))
  progress(`written: ${out}`)
}

await main()
