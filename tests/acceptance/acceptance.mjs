// The main job through the official JavaScript SDK, unmodified. Reads E2B_* from the environment.
import { Buffer } from 'node:buffer'
import {
  AuthenticationError,
  CommandExitError,
  FileNotFoundError,
  InvalidArgumentError,
  SandboxError,
  SandboxNotFoundError,
  TimeoutError,
  Sandbox as PlainSandbox,
} from 'e2b'
import { Sandbox } from '@e2b/code-interpreter'
import { assert, check, finish, opts, raises, skip, SLOW, sleep, until } from './harness.mjs'
import { surviveCrash } from './crash.mjs'
import { pauses } from './pause.mjs'
import { network } from './network.mjs'
import { volumes } from './volumes.mjs'

const API = process.env.E2B_API_URL
const KEY = process.env.E2B_API_KEY
const UNKNOWN = 'i' + '0'.repeat(19)
const run = (sandbox, command, more = {}) =>
  sandbox.commands.run(command, { ...opts, timeoutMs: SLOW, ...more })
const code = (sandbox, text, more = {}) =>
  sandbox.runCode(text, { ...opts, timeoutMs: SLOW, ...more })

async function commands(sandbox) {
  await check('commands.run: stdout, stderr and exit code', async () => {
    const result = await run(sandbox, 'echo out; echo err >&2')
    assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  })
  await check('commands.run: a failing command raises CommandExitError', async () => {
    const error = await raises(CommandExitError, () => run(sandbox, 'echo why >&2; exit 3'))
    assert.deepEqual([error.exitCode, error.stderr], [3, 'why\n'])
  })
  await check('commands.run: output is streamed while the command runs', async () => {
    const seen = []
    // It goes on when its first line has arrived.
    const result = await run(sandbox, 'echo 1; until [ -e /tmp/seen ]; do sleep 0.1; done; echo 2 >&2', {
      onStdout: (data) => {
        seen.push(['out', data])
        sandbox.files.write('/tmp/seen', '', opts).catch(() => undefined)
      },
      onStderr: (data) => seen.push(['err', data]),
    })
    assert.deepEqual(seen, [['out', '1\n'], ['err', '2\n']])
    assert.equal(result.stdout, '1\n')
  })
  await check('commands.run: environment', async () => {
    const result = await run(sandbox, 'echo "$ACCEPTANCE:$OF_SANDBOX"', { envs: { ACCEPTANCE: 'a b$c' } })
    assert.equal(result.stdout, 'a b$c:yes\n')
  })
  await check('commands.run: working directory', async () => {
    assert.equal((await run(sandbox, 'pwd', { cwd: '/usr/lib' })).stdout, '/usr/lib\n')
  })
  await check('commands.run: default user, and root', async () => {
    assert.equal((await run(sandbox, 'whoami; pwd')).stdout, 'user\n/home/user\n')
    assert.equal((await run(sandbox, 'whoami', { user: 'root' })).stdout, 'root\n')
  })
  await check('commands.run: background, list, stdin, wait', async () => {
    const handle = await run(sandbox, 'read line; echo "got $line"', { background: true, stdin: true })
    const list = await sandbox.commands.list(opts)
    assert.ok(list.some((process) => process.pid === handle.pid), 'not listed')
    await sandbox.commands.sendStdin(handle.pid, 'hello\n', opts)
    assert.equal((await handle.wait()).stdout, 'got hello\n')
  })
  await check('commands.run: background and kill', async () => {
    const handle = await run(sandbox, 'sleep 1000', { background: true })
    assert.equal(await handle.kill(), true)
    await raises(CommandExitError, () => handle.wait())
    await raises(CommandExitError, () => run(sandbox, `kill -0 ${handle.pid}`))
    assert.equal(await sandbox.commands.kill(4_000_000, opts), false)
  })
  await check('commands.run: its timeout raises TimeoutError', () =>
    raises(TimeoutError, () => run(sandbox, 'sleep 1000', { timeoutMs: 2000 })))
  await check('commands.run: 2 MiB of output arrive whole', async () => {
    const result = await run(sandbox, 'head -c 2097152 /dev/zero | tr "\\0" x')
    assert.equal(result.stdout.length, 2097152)
  })
}

async function files(sandbox) {
  const directory = `/home/user/acceptance-${Date.now()}`
  await check('files.makeDir, exists', async () => {
    assert.equal(await sandbox.files.makeDir(directory, opts), true)
    assert.equal(await sandbox.files.makeDir(directory, opts), false)
    assert.equal(await sandbox.files.exists(directory, opts), true)
    assert.equal(await sandbox.files.exists(`${directory}/none`, opts), false)
  })
  await check('files.write and read: text', async () => {
    const info = await sandbox.files.write(`${directory}/deep/er/text.txt`, 'grüße 🌊\n', opts)
    assert.deepEqual([info.name, info.path], ['text.txt', `${directory}/deep/er/text.txt`])
    assert.equal(await sandbox.files.read(`${directory}/deep/er/text.txt`, opts), 'grüße 🌊\n')
  })
  await check('files.write and read: bytes', async () => {
    const bytes = Buffer.alloc(300_000)
    for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7919) & 0xff
    await sandbox.files.write(`${directory}/bytes`, new Uint8Array(bytes).buffer, opts)
    const back = await sandbox.files.read(`${directory}/bytes`, { ...opts, format: 'bytes' })
    assert.ok(bytes.equals(Buffer.from(back)), 'bytes differ')
  })
  await check('files.write: several at once', async () => {
    const infos = await sandbox.files.write(
      [
        { path: `${directory}/one`, data: '1' },
        { path: `${directory}/two`, data: '2' },
      ],
      opts
    )
    assert.deepEqual(infos.map((info) => info.name).sort(), ['one', 'two'])
    assert.equal(await sandbox.files.read(`${directory}/two`, opts), '2')
  })
  await check('files.list', async () => {
    const entries = await sandbox.files.list(directory, opts)
    const kinds = Object.fromEntries(entries.map((entry) => [entry.name, entry.type]))
    assert.deepEqual(kinds, { bytes: 'file', deep: 'dir', one: 'file', two: 'file' })
    assert.equal(entries.find((entry) => entry.name === 'bytes').size, 300_000)
  })
  await check('files.rename', async () => {
    const info = await sandbox.files.rename(`${directory}/one`, `${directory}/uno`, opts)
    assert.equal(info.path, `${directory}/uno`)
    assert.equal(await sandbox.files.exists(`${directory}/one`, opts), false)
    assert.equal(await sandbox.files.read(`${directory}/uno`, opts), '1')
  })
  await check('files.watchDir', async () => {
    const seen = []
    const handle = await sandbox.files.watchDir(directory, (event) => seen.push(`${event.type} ${event.name}`), opts)
    await sandbox.files.write(`${directory}/watched.txt`, 'text', opts)
    await until('the events', () => seen.includes('create watched.txt') && seen.includes('write watched.txt'), SLOW)
    await handle.stop()
    await sandbox.files.remove(`${directory}/watched.txt`, opts)
  })
  await check('files.remove', async () => {
    await sandbox.files.remove(`${directory}/uno`, opts)
    assert.equal(await sandbox.files.exists(`${directory}/uno`, opts), false)
    await sandbox.files.remove(directory, opts)
    assert.equal(await sandbox.files.exists(directory, opts), false)
  })
}

async function interpreter(sandbox) {
  await check('runCode: text result', async () => {
    const execution = await code(sandbox, '1+1')
    assert.equal(execution.text, '2')
    assert.equal(execution.error, undefined)
  })
  await check('runCode: state is kept between calls', async () => {
    await code(sandbox, 'x = 41')
    assert.equal((await code(sandbox, 'x += 1\nx')).text, '42')
  })
  await check('runCode: stdout and stderr are streamed', async () => {
    const seen = []
    const execution = await code(
      sandbox,
      'import os, sys, time\nprint("a", flush=True)\nwhile not os.path.exists("/tmp/a"): time.sleep(0.1)\nprint("b", file=sys.stderr)',
      {
        onStdout: (message) => {
          seen.push(['out', message.line])
          sandbox.files.write('/tmp/a', '', opts).catch(() => undefined)
        },
        onStderr: (message) => seen.push(['err', message.line]),
      }
    )
    assert.deepEqual(seen, [['out', 'a\n'], ['err', 'b\n']])
    assert.deepEqual([execution.logs.stdout.join(''), execution.logs.stderr.join('')], ['a\n', 'b\n'])
  })
  await check('runCode: an exception is execution.error', async () => {
    const { error } = await code(sandbox, 'def f():\n    raise ValueError("no good")\nf()')
    assert.deepEqual([error.name, error.value], ['ValueError', 'no good'])
    assert.match(error.traceback, /ValueError/)
    assert.match(error.traceback, /line/)
  })
  await check('runCode: a matplotlib figure is a PNG', async () => {
    const execution = await code(
      sandbox,
      'import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title("t")\nplt.show()'
    )
    assert.equal(execution.error, undefined)
    const png = Buffer.from(execution.results[0].png, 'base64')
    assert.equal(png.subarray(0, 8).toString('hex'), '89504e470d0a1a0a')
  })
  await check('runCode: a DataFrame is HTML', async () => {
    const execution = await code(sandbox, 'import pandas as pd\npd.DataFrame({"a": [1, 2]})')
    assert.match(execution.results[0].html, /<table/)
  })
  await check('runCode: environment of the sandbox and of the call', async () => {
    const text = 'import os\nos.environ.get("OF_SANDBOX"), os.environ.get("OF_CALL")'
    assert.equal((await code(sandbox, text, { envs: { OF_CALL: 'now' } })).text, "('yes', 'now')")
    assert.equal((await code(sandbox, text)).text, "('yes', None)")
  })
  await check('runCode: a context of its own', async () => {
    const context = await sandbox.createCodeContext({ ...opts, cwd: '/tmp' })
    assert.equal((await code(sandbox, 'import os; os.getcwd()', { context })).text, '/tmp')
    assert.match((await code(sandbox, 'x', { context })).error.name, /NameError/)
    await sandbox.removeCodeContext(context, opts)
    await raises(SandboxError, () => code(sandbox, '1', { context }))
  })
  await check('runCode: a kernel that dies gives an error and is replaced', async () => {
    const execution = await code(sandbox, 'import os\nos._exit(1)')
    assert.ok(execution.error, 'no error')
    assert.equal((await code(sandbox, '2+2')).text, '4')
  })
}

async function lifecycle(sandbox) {
  const id = sandbox.sandboxId
  await check('getInfo', async () => {
    const info = await sandbox.getInfo(opts)
    assert.equal(info.sandboxId, id)
    assert.equal(info.state, 'running')
    assert.deepEqual(info.metadata, { test: 'acceptance' })
    assert.ok(info.endAt > info.startedAt && info.endAt > new Date())
  })
  await check('list, with a metadata filter', async () => {
    const page = await Sandbox.list({ ...opts, query: { metadata: { test: 'acceptance' } } }).nextItems()
    assert.ok(page.some((item) => item.sandboxId === id))
    const none = await Sandbox.list({ ...opts, query: { metadata: { test: 'other' } } }).nextItems()
    assert.ok(!none.some((item) => item.sandboxId === id))
  })
  await check('setTimeout', async () => {
    await sandbox.setTimeout(3_600_000, opts)
    const left = (await sandbox.getInfo(opts)).endAt.getTime() - Date.now()
    assert.ok(left > 3_400_000 && left < 3_800_000, `${left} ms left`)
  })
  await check('connect from elsewhere', async () => {
    const other = await Sandbox.connect(id, opts)
    assert.equal((await run(other, 'echo there')).stdout, 'there\n')
  })
  await check('a port of the sandbox is reached from outside', async () => {
    await run(sandbox, 'echo page > /tmp/index.html; cd /tmp && exec python3 -m http.server 8123', { background: true })
    await until('port 8123', async () => (await portText(sandbox, 8123)) === 'page\n')
  })
  await check('isRunning, kill, and what is said of a killed sandbox', async () => {
    assert.equal(await sandbox.isRunning(opts), true)
    assert.equal(await Sandbox.kill(id, opts), true)
    assert.equal(await Sandbox.kill(id, opts), false)
    assert.equal(await sandbox.isRunning(opts), false)
    await raises(SandboxNotFoundError, () => Sandbox.getInfo(id, opts))
    await raises(SandboxNotFoundError, () => run(sandbox, 'true'))
    await raises(TimeoutError, () => sandbox.files.read('/etc/hostname', opts))
    await raises(TimeoutError, () => code(sandbox, '1'))
    await raises(SandboxNotFoundError, () => sandbox.setTimeout(1000, opts))
    await raises(SandboxNotFoundError, () => Sandbox.connect(id, opts))
  })
  await check('a sandbox whose timeout passes is gone', async () => {
    const short = await PlainSandbox.create('base', { ...opts, timeoutMs: 5000 })
    await until('end of the sandbox', async () => !(await short.isRunning(opts)))
    await raises(SandboxNotFoundError, () => PlainSandbox.getInfo(short.sandboxId, opts))
  })
}

export async function portText(sandbox, port) {
  const response = await fetch(`${process.env.E2B_SANDBOX_URL}/index.html`, {
    headers: { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) },
  })
  return response.ok ? response.text() : `status ${response.status}`
}

/** A request past the SDK. The error body must have the API's shape, with this status. */
async function refused(status, path, init = {}) {
  const response = await fetch(API + path, init)
  const body = await response.json()
  assert.ok([status].flat().includes(response.status), `status ${response.status}`)
  assert.equal(body.code, response.status)
  assert.equal(typeof body.message, 'string')
}

async function badRequests() {
  const json = { 'X-API-KEY': KEY, 'Content-Type': 'application/json' }
  await check('bad: wrong API key', () =>
    raises(AuthenticationError, () => Sandbox.create({ ...opts, apiKey: 'e2b_' + '0'.repeat(40) })))
  await check('bad: no API key', () => refused(401, '/v2/sandboxes'))
  await check('bad: malformed JSON', () => refused(400, '/sandboxes', { method: 'POST', headers: json, body: '{"a":' }))
  await check('bad: wrong type in JSON', () =>
    refused(400, '/sandboxes', { method: 'POST', headers: json, body: '{"templateID": 7}' }))
  await check('bad: unknown path', () => refused(404, '/no/such/path', { headers: json }))
  await check('bad: oversize body', () =>
    refused([400, 413], '/sandboxes', {
      method: 'POST',
      headers: json,
      body: JSON.stringify({ templateID: 'base', metadata: { a: 'x'.repeat(32 * 1024 * 1024) } }),
    }))
  await check('bad: unknown template', () =>
    raises(SandboxError, () => Sandbox.create('no-such-template', opts), /not found|404/i))
  await check('bad: unknown sandbox', async () => {
    await raises(SandboxNotFoundError, () => Sandbox.getInfo(UNKNOWN, opts))
    await raises(SandboxNotFoundError, () => Sandbox.connect(UNKNOWN, opts))
    await raises(SandboxNotFoundError, () => Sandbox.setTimeout(UNKNOWN, 1000, opts))
    assert.equal(await Sandbox.kill(UNKNOWN, opts), false)
  })
  await check('bad: timeout out of range', async () => {
    await raises(SandboxError, () => Sandbox.create({ ...opts, timeoutMs: 1e12 }), /400|timeout/i)
    await refused(400, '/sandboxes', {
      method: 'POST',
      headers: json,
      body: '{"templateID":"base","timeout":-5}',
    })
  })
}

async function badUse(sandbox) {
  await check('bad: missing file', async () => {
    await raises(FileNotFoundError, () => sandbox.files.read('/no/such/file', opts))
    await raises(FileNotFoundError, () => sandbox.files.list('/no/such/directory', opts))
  })
  await check('bad: a path that does not fit', async () => {
    await raises(InvalidArgumentError, () => sandbox.files.read('/etc', opts))
    await raises(InvalidArgumentError, () => sandbox.files.list('/etc/passwd', opts))
  })
  await check('bad: command not found', async () => {
    const error = await raises(CommandExitError, () => run(sandbox, 'no-such-command-here'))
    assert.equal(error.exitCode, 127)
  })
  await check('bad: working directory that is missing', () =>
    raises(InvalidArgumentError, () => run(sandbox, 'true', { cwd: '/no/such/directory' })))
  await check('bad: wrong access token for the agent', async () => {
    const response = await fetch(`${process.env.E2B_SANDBOX_URL}/files?path=/etc/hostname`, {
      headers: {
        'E2b-Sandbox-Id': sandbox.sandboxId,
        'E2b-Sandbox-Port': '49983',
        'X-Access-Token': 'wrong',
      },
    })
    assert.equal(response.status, 401)
  })
  await check('bad: a port where nobody listens', async () => {
    assert.match(await portText(sandbox, 8999), /status 502/)
  })
  await check('bad: language without a kernel', () =>
    raises(SandboxError, () => code(sandbox, '1', { language: 'r' })))
  await check('the service still serves', async () => {
    assert.equal((await code(sandbox, '"still " + "here"')).text, 'still here')
  })
}

async function main() {
  for (const name of ['E2B_API_KEY', 'E2B_API_URL', 'E2B_SANDBOX_URL']) {
    if (!process.env[name]) throw new Error(`${name} is not set: eval "$(./atoll env)"`)
  }
  const sandbox = await check('Sandbox.create', () =>
    Sandbox.create({
      ...opts,
      timeoutMs: 3_600_000,
      metadata: { test: 'acceptance' },
      envs: { OF_SANDBOX: 'yes' },
    }))
  if (!sandbox) finish()
  await commands(sandbox)
  await files(sandbox)
  await interpreter(sandbox)
  await badRequests()
  await badUse(sandbox)
  if (process.env.ACCEPTANCE_CRASH === '0') skip('crash of the daemons', 'ACCEPTANCE_CRASH=0')
  else await surviveCrash(sandbox)
  if (process.env.ACCEPTANCE_CRASH === '0') skip('pauses, volumes and network', 'ACCEPTANCE_CRASH=0')
  else {
    await pauses()
    await volumes()
    await network()
  }
  await lifecycle(sandbox)
  await sleep(0)
  finish()
}

await main()
