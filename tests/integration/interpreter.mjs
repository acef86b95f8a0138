// atoll-interpreter by itself, without a sandbox around it, driven by the official SDK in its debug mode. A small
// server stands in for the guest agent's GET /envs. Arguments: the program.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { NotFoundError, SandboxError, TimeoutError } from 'e2b'
import { Sandbox } from '@e2b/code-interpreter'
import { assert, check, finish, opts, raises, until } from './harness.mjs'

const URL = 'http://127.0.0.1:49999'
const agent = { envs: { OF_SANDBOX: 'yes' }, asked: 0 }

async function startAgent() {
  const server = createServer((request, response) => {
    agent.asked += 1
    response.end(JSON.stringify(agent.envs))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${server.address().port}`
}

async function startInterpreter(program) {
  const child = spawn(program, ['--cwd', '/tmp', '--agent', await startAgent()], { stdio: 'inherit' })
  process.on('exit', () => child.kill('SIGTERM'))
  await until('health', async () => (await (await fetch(`${URL}/health`)).text()) === '"OK"')
  return child
}

/** POST /execute past the SDK. Status and text. */
async function execute(body, headers = {}) {
  const response = await fetch(`${URL}/execute`, { method: 'POST', body, headers })
  return [response.status, await response.text()]
}

/** Run a cell until it has begun: `ended` is what it comes to. (In an object, or else it would be waited for.) */
async function begun(run, cell) {
  let ended
  await new Promise((resolve, reject) => {
    ended = run(`print("begun", flush=True)\n${cell}`, { onStdout: resolve })
    ended.catch(reject)
  })
  return { ended }
}

async function outputs(run) {
  await check('subprocesses write into their cell', async () => {
    const { logs } = await run('import os\nos.system("echo out; echo err >&2")\nprint("x")')
    assert.deepEqual([logs.stdout.join(''), logs.stderr.join('')], ['out\nx\n', 'err\n'])
  })
  await check('threads and forked processes print', async () => {
    const { logs } = await run(
      'import threading, multiprocessing as mp\nt = [threading.Thread(target=print, args=("t",)) for _ in range(50)]\n' +
        '[x.start() for x in t]; [x.join() for x in t]\nwith mp.Pool(2) as p: print(p.map(abs, [-1, -2]))'
    )
    assert.equal(logs.stdout.join('').split('t').length, 51)
    assert.match(logs.stdout.join(''), /\[1, 2\]/)
  })
  await check('what is not text is repaired, NUL is kept', async () => {
    const { logs } = await run('print("a\\0b")\nprint("\\udc80z")')
    assert.equal(logs.stdout.join(''), 'a\0b\n\ufffdz\n')
  })
  await check('much output, and many messages', async () => {
    assert.equal((await run('print("x" * 5_000_000)')).logs.stdout.join('').length, 5_000_001)
    assert.equal((await run('for i in range(5000): display(i)')).results.length, 5000)
  })
  await check('a DataFrame is data', async () => {
    const { results } = await run(
      'import pandas as pd\npd.DataFrame({"a": [1, 2], "b": [0.5, float("nan")], "t": pd.to_datetime(["2020-01-01", None])})'
    )
    assert.deepEqual(results[0].data, { a: [1, 2], b: [0.5, null], t: ['2020-01-01T00:00:00', null] })
  })
  await check('a figure is shown with and without show()', async () => {
    assert.ok((await run('import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()')).results[0].png)
    assert.ok((await run('plt.plot([1]);')).results[0].png)
  })
  await check('input() is an error, not a hang', async () => {
    assert.equal((await run('input()')).error.name, 'StdinNotImplementedError')
  })
}

async function environments(run) {
  const text = 'import os\nos.environ.get("OF_SANDBOX"), os.environ.get("OF_CALL")'
  await check('environment of the sandbox, of the call, and back', async () => {
    assert.equal((await run(text, { envs: { OF_CALL: 'é"\n' } })).text, `('yes', 'é"\\n')`)
    assert.equal((await run(text)).text, "('yes', None)")
    assert.equal(agent.asked, 1)
  })
  await check('another access token means another sandbox', async () => {
    agent.envs = { OF_SANDBOX: 'other' }
    await run('import random; random.seed(1)')
    const [, lines] = await execute(JSON.stringify({ code: text }), { 'X-Access-Token': 't2' })
    assert.match(lines, /'other'/)
    assert.notEqual((await run('random.seed(1); a = random.random(); random.seed(1); a')).text, undefined)
  })
}

async function interrupts(sandbox, run) {
  const cells = {
    'a cell that sleeps': 'import time\ntime.sleep(100)',
    'a cell that awaits': 'import asyncio\nawait asyncio.sleep(100)',
    'a cell that waits for a process': 'import subprocess\nsubprocess.run(["sleep", "100"])',
    'a cell that computes': 'while True: pass',
  }
  for (const [name, cell] of Object.entries(cells)) {
    await check(`the client goes away: ${name} is interrupted`, async () => {
      await raises(TimeoutError, () => run(cell, { timeoutMs: 700 }))
      assert.equal((await run('5+5', { timeoutMs: 90_000 })).text, '10')
    })
  }
  await check('a client that goes away while it waits is forgotten', async () => {
    const gate = join(mkdtempSync(join(tmpdir(), 'atoll-gate-')), 'open')
    const long = await begun(run, `import os, time\nwhile not os.path.exists("${gate}"): time.sleep(0.05)\nz = 1`)
    await raises(TimeoutError, () => run('z = 2', { timeoutMs: 300 }))
    writeFileSync(gate, '')
    await long.ended
    rmSync(dirname(gate), { recursive: true })
    assert.equal((await run('z')).text, '1')
  })
  await check('executions of one context wait for each other', async () => {
    const cell = (i) => `import time\nv = ${i}\ntime.sleep(0.1)\nv`
    const all = await Promise.all([1, 2, 3, 4].map((i) => run(cell(i))))
    assert.deepEqual(all.map((one) => one.text), ['1', '2', '3', '4'])
  })
  await check('keepalive while a cell is silent', async () => {
    const [, lines] = await execute(JSON.stringify({ code: 'import time\ntime.sleep(9)' }))
    assert.match(lines, /"keepalive"/)
  })
}

async function deaths(sandbox, run) {
  for (const cell of ['import os\nos._exit(1)', 'import os\nos.kill(os.getpid(), 11)', 'import os\nos.killpg(0, 9)']) {
    await check(`the kernel dies: ${cell.split('\n')[1]}`, async () => {
      assert.equal((await run(cell)).error.name, 'UnexpectedEndOfExecution')
      assert.equal((await run('2+2')).text, '4')
    })
  }
  await check('the process that forks kernels dies', async () => {
    const { error } = await run('import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(100)')
    assert.equal(error.name, 'UnexpectedEndOfExecution')
    assert.equal((await run('2+3')).text, '5')
  })
  await check('restart ends the running cell', async () => {
    const [context] = await sandbox.listCodeContexts()
    const running = await begun(run, 'import time\ntime.sleep(100)')
    await sandbox.restartCodeContext(context)
    assert.equal((await running.ended).error.name, 'ContextRestarting')
    assert.equal((await run('1')).text, '1')
  })
}

async function contexts(sandbox, run) {
  await check('contexts: make, list, use, restart, remove', async () => {
    const context = await sandbox.createCodeContext({ cwd: '/usr' })
    assert.equal((await run('import os; os.getcwd()', { context })).text, '/usr')
    assert.equal((await sandbox.listCodeContexts()).length, 2)
    await sandbox.restartCodeContext(context)
    assert.equal((await run('"os" in dir()', { context })).text, 'False')
    await sandbox.removeCodeContext(context)
    await raises(NotFoundError, () => run('1', { context }), /not found/)
  })
  await check('contexts: the default one comes back', async () => {
    await sandbox.removeCodeContext((await sandbox.listCodeContexts())[0])
    assert.equal((await run('1')).text, '1')
  })
  await check('bad: directory, language, requests', async () => {
    await raises(SandboxError, () => sandbox.createCodeContext({ cwd: '/no/such/place' }))
    await raises(SandboxError, () => run('1', { language: 'r' }))
    for (const body of ['{', '[]', '{}', '{"code":1}', '{"code":"1","env_vars":{"a":1}}'])
      assert.equal((await execute(body))[0], 400)
    assert.deepEqual(await execute('{"code":"1","context_id":"x","language":"python"}'), [
      400,
      'Only one of context_id or language can be provided',
    ])
    assert.deepEqual(await execute('{"code":"1","context_id":"x"}'), [404, 'Context x not found'])
    assert.equal((await fetch(`${URL}/nope`)).status, 404)
  })
}

async function main() {
  const child = await startInterpreter(process.argv[2])
  const sandbox = await Sandbox.create({ debug: true, apiKey: 'e2b_00', ...opts })
  const run = (code, more = {}) => sandbox.runCode(code, { ...opts, timeoutMs: 60_000, ...more })
  await environments(run)
  await outputs(run)
  await interrupts(sandbox, run)
  await deaths(sandbox, run)
  await contexts(sandbox, run)
  await check('it ends on SIGTERM, cleanly', async () => {
    const ended = new Promise((resolve) => child.on('exit', (status, signal) => resolve([status, signal])))
    child.kill('SIGTERM')
    assert.deepEqual(await ended, [0, null])
  })
  finish()
}

await main()
