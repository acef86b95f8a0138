// SIGKILL of atoll-node and atoll-api while a sandbox runs: the sandbox, its processes and its ports stay.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { Sandbox } from '@e2b/code-interpreter'
import { assert, check, opts, SLOW, until } from './harness.mjs'

const ATOLL = process.env.ATOLL ?? 'atoll'
const PORT = 8765

/** Run a command where the service runs (`atoll lab exec`). Its standard output. */
export async function onServiceHost(...command) {
  const { stdout } = await promisify(execFile)(ATOLL, ['lab', 'exec', '--', ...command])
  return stdout
}

async function pageOf(sandbox) {
  const response = await fetch(`${process.env.E2B_SANDBOX_URL}/hello`, {
    headers: { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(PORT) },
  })
  return response.ok ? (await response.text()).trim() : `status ${response.status}`
}

/** Kill a daemon by its exact name, and wait until another one runs in its place. */
async function killDaemon(name) {
  const before = (await onServiceHost('pgrep', '-o', '-x', name)).trim()
  await onServiceHost('pkill', '-9', '-x', name)
  await until(`${name} runs again`, async () => {
    const now = (await onServiceHost('pgrep', '-o', '-x', name)).trim()
    return now !== '' && now !== before
  })
}

/** atoll-node is there again for what only it can do; much else is answered without it. */
export const nodeAnswers = (sandbox) =>
  until('the node answers', async () => (await sandbox.setTimeout(3_600_000, opts)) === undefined)

async function checkAlive(sandbox, pid) {
  await until('the sandbox is listed', async () => {
    const page = await Sandbox.list({ ...opts, query: { state: ['running'] } }).nextItems()
    return page.some((item) => item.sandboxId === sandbox.sandboxId)
  })
  await until('the server answers', async () => (await pageOf(sandbox)) === 'here')
  const list = await sandbox.commands.list(opts)
  assert.ok(list.some((process) => process.pid === pid), 'the process is gone')
  const { text } = await sandbox.runCode('kept', { ...opts, timeoutMs: SLOW })
  assert.equal(text, 'before the crash')
}

export async function surviveCrash(sandbox) {
  let handle
  await check('crash: a sandbox with a server and a variable', async () => {
    const command = `mkdir -p /tmp/crash && echo here > /tmp/crash/hello && cd /tmp/crash && exec python3 -m http.server ${PORT}`
    handle = await sandbox.commands.run(command, { ...opts, background: true, timeoutMs: 0 })
    await sandbox.runCode('kept = "before the crash"', { ...opts, timeoutMs: SLOW })
    await until('the server answers', async () => (await pageOf(sandbox)) === 'here')
  })
  if (!handle) return
  for (const names of [['atoll-node'], ['atoll-api'], ['atoll-node', 'atoll-api']]) {
    await check(`crash: SIGKILL of ${names.join(' and ')}`, async () => {
      for (const name of names) await killDaemon(name)
      await checkAlive(sandbox, handle.pid)
    })
  }
  await check('crash: a new sandbox can be made afterwards', async () => {
    await nodeAnswers(sandbox)
    const fresh = await Sandbox.create({ ...opts, timeoutMs: 300_000 })
    assert.equal((await fresh.runCode('3*7', { ...opts, timeoutMs: SLOW })).text, '21')
    assert.equal(await fresh.kill(opts), true)
  })
}
