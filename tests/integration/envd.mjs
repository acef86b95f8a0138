// atoll-envd by itself, without a sandbox around it, driven by the official SDK in its debug mode. Argument: the program.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CommandExitError, FileNotFoundError, InvalidArgumentError, NotFoundError, Sandbox, TimeoutError } from 'e2b'
import * as wire from './envd_wire.mjs'
import { assert, check, finish, opts, raises, until } from './harness.mjs'

const URL = 'http://127.0.0.1:49983'
const directory = mkdtempSync(join(tmpdir(), 'atoll-envd-'))
let child

async function start(program) {
  child = spawn(program, ['--native'], { stdio: ['ignore', 'inherit', 'inherit'] })
  process.on('exit', () => {
    child.kill('SIGTERM')
    rmSync(directory, { recursive: true, force: true })
  })
  await until('health', async () => (await fetch(`${URL}/health`)).status === 204)
}

async function commands(sandbox) {
  await check('a command has output, error output and an exit code', async () => {
    const result = await sandbox.commands.run('echo out; echo err >&2')
    assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
    const error = await raises(CommandExitError, () => sandbox.commands.run('echo before; exit 3'))
    assert.equal(error.exitCode, 3)
    assert.equal(error.stdout, 'before\n')
  })
  await check('output streams as it comes', async () => {
    // Each line waits for the one before to have arrived.
    let seen = ''
    const wait = (i) => `until [ -e ${directory}/line${i} ]; do sleep 0.05; done`
    await sandbox.commands.run(`for i in 1 2 3; do echo $i; ${wait('$i')}; done`, {
      onStdout: (text) => writeFileSync(`${directory}/line${(seen += text).trim().at(-1)}`, ''),
    })
    assert.equal(seen, '1\n2\n3\n')
  })
  await check('environment, working directory and user', async () => {
    const { stdout } = await sandbox.commands.run('echo $FOO $HOME; pwd; whoami', {
      envs: { FOO: 'bar' },
      cwd: '/usr/lib',
      user: 'root',
    })
    assert.equal(stdout, 'bar /root\n/usr/lib\nroot\n')
    const other = await sandbox.commands.run('id -un; echo $HOME', { user: 'nobody', cwd: '/' })
    assert.match(other.stdout, /^nobody\n/)
  })
  await check('what is named wrongly is refused', async () => {
    await raises(InvalidArgumentError, () => sandbox.commands.run('true', { cwd: '/no/such' }), /does not exist/)
    await raises(Error, () => sandbox.commands.run('true', { user: 'no-such-user' }), /no-such-user/)
    await raises(CommandExitError, () => sandbox.commands.run('no-such-command'), /127/)
  })
  await check('background, list, connect, stdin and kill', async () => {
    const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
    const listed = (await sandbox.commands.list()).find((process) => process.pid === handle.pid)
    assert.deepEqual(listed.args, ['-l', '-c', 'cat'])
    const seen = []
    const second = await sandbox.commands.connect(handle.pid, { onStdout: (text) => seen.push(text) })
    await sandbox.commands.sendStdin(handle.pid, 'hello\n')
    await until('the echo', async () => seen.join('') === 'hello\n')
    await sandbox.commands.closeStdin(handle.pid)
    assert.equal((await second.wait()).exitCode, 0)
    const sleeper = await sandbox.commands.run('sleep 100', { background: true })
    assert.equal(await sleeper.kill(), true)
    const error = await raises(CommandExitError, () => sleeper.wait())
    assert.match(error.error, /signal: killed/)
    assert.equal(await sandbox.commands.kill(sleeper.pid), false)
    await raises(NotFoundError, () => sandbox.commands.connect(999999))
  })
  await check('a command whose time is over is killed', async () => {
    const marker = `${directory}/marker`
    const command = `sleep 120; touch ${marker}`
    await raises(TimeoutError, () => sandbox.commands.run(command, { timeoutMs: 500 }))
    await until('it is gone', async () => !(await sandbox.commands.list()).some((process) => process.args.includes(command)), 100_000)
    assert.equal(await sandbox.files.exists(marker), false)
  })
  await check('a client that goes away does not end its command', async () => {
    const handle = await sandbox.commands.run(`sleep 1; touch ${directory}/kept`, { background: true })
    await handle.disconnect()
    await until('its work', () => sandbox.files.exists(`${directory}/kept`))
  })
  await check('a hundred commands at once lose no byte', async () => {
    const runs = Array.from({ length: 100 }, (_, i) =>
      sandbox.commands.run(`for j in $(seq 200); do echo ${i}-$j-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done`, { timeoutMs: 0 })
    )
    const results = await Promise.all(runs)
    for (const [i, { stdout }] of results.entries()) {
      const lines = stdout.trim().split('\n')
      assert.equal(lines.length, 200)
      assert.equal(lines[199], `${i}-200-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx`)
    }
  })
  await check('twenty megabytes of output arrive whole', async () => {
    const { stdout } = await sandbox.commands.run('seq 1 2800000', { timeoutMs: 0 })
    assert.equal(stdout.length, 21288896)
    assert.ok(stdout.endsWith('2799999\n2800000\n'))
  })
  await check('a terminal has a size, takes input and ends', async () => {
    let seen = ''
    const terminal = await sandbox.pty.create({
      cols: 91,
      rows: 33,
      onData: (bytes) => (seen += new TextDecoder().decode(bytes)),
    })
    await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('stty size\n'))
    await until('the size', async () => seen.includes('33 91'))
    await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 40 })
    await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('stty size\nexit 4\n'))
    const error = await raises(CommandExitError, () => terminal.wait())
    assert.equal(error.exitCode, 4)
    assert.match(seen, /40 100/)
  })
}

async function files(sandbox) {
  const at = (name) => `${directory}/${name}`
  await check('text and bytes go in and come back', async () => {
    const info = await sandbox.files.write(at('new/dir/a.txt'), 'grüße\n')
    assert.equal(info.path, at('new/dir/a.txt'))
    assert.equal(info.name, 'a.txt')
    assert.equal(await sandbox.files.read(at('new/dir/a.txt')), 'grüße\n')
    const bytes = randomBytes(70_000)
    await sandbox.files.write(at('b.bin'), bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
    assert.deepEqual(Buffer.from(await sandbox.files.read(at('b.bin'), { format: 'bytes' })), bytes)
    await sandbox.files.write(at('empty'), '')
    assert.equal(await sandbox.files.read(at('empty')), '')
  })
  await check('several files in one request', async () => {
    const infos = await sandbox.files.write([
      { path: at('m/1'), data: 'one' },
      { path: at('m/2'), data: 'two' },
    ])
    assert.deepEqual(infos.map((info) => info.path), [at('m/1'), at('m/2')])
    assert.equal(await sandbox.files.read(at('m/2')), 'two')
  })
  await check('exists, info, list, make, rename, remove', async () => {
    assert.equal(await sandbox.files.exists(at('m/1')), true)
    assert.equal(await sandbox.files.exists(at('m/none')), false)
    assert.equal(await sandbox.files.makeDir(at('m/sub/deep')), true)
    assert.equal(await sandbox.files.makeDir(at('m/sub/deep')), false)
    const names = (await sandbox.files.list(at('m'), { depth: 2 })).map((entry) => entry.path)
    assert.deepEqual(names, [at('m/1'), at('m/2'), at('m/sub'), at('m/sub/deep')])
    const moved = await sandbox.files.rename(at('m/1'), at('m/other/1'))
    assert.equal(moved.path, at('m/other/1'))
    const info = await sandbox.files.getInfo(at('m/other/1'))
    assert.deepEqual([info.type, info.size, info.permissions, info.owner], ['file', 3, '-rw-r--r--', 'root'])
    await sandbox.files.remove(at('m'))
    assert.equal(await sandbox.files.exists(at('m')), false)
    await sandbox.files.remove(at('m'))
  })
  await check('what is not there is said so', async () => {
    await raises(FileNotFoundError, () => sandbox.files.read(at('none')))
    await raises(FileNotFoundError, () => sandbox.files.list(at('none')))
    await raises(FileNotFoundError, () => sandbox.files.rename(at('none'), at('x')))
    await raises(InvalidArgumentError, () => sandbox.files.read(directory))
    await raises(InvalidArgumentError, () => sandbox.files.write(directory, 'x'))
    await raises(InvalidArgumentError, () => sandbox.files.list(at('b.bin')))
  })
  await check('files of a user belong to that user', async () => {
    await sandbox.files.write('/tmp/atoll-envd-test/n.txt', 'x', { user: 'nobody' })
    const info = await sandbox.files.getInfo('/tmp/atoll-envd-test/n.txt')
    assert.equal(info.owner, 'nobody')
    await sandbox.files.remove('/tmp/atoll-envd-test')
  })
}

/** Send bytes and take what comes back until the end. */
function raw(text) {
  return new Promise((resolve, reject) => {
    const socket = connect(49983, '127.0.0.1', () => socket.end(text))
    let answer = ''
    socket.on('data', (data) => (answer += data.toString('latin1')))
    socket.on('close', () => resolve(answer))
    socket.on('error', reject)
  })
}

async function hostile() {
  const rpc = (path, body, type = 'application/json') =>
    fetch(`${URL}${path}`, { method: 'POST', body, headers: { 'content-type': type } })
  await check('malformed calls are answered and do no harm', async () => {
    assert.equal((await rpc('/process.Process/List', '{')).status, 400)
    assert.equal((await rpc('/process.Process/List', '[]')).status, 400)
    assert.equal((await rpc('/process.Process/List', '{}', 'text/plain')).status, 415)
    assert.equal((await rpc('/process.Process/Nothing', '{}')).status, 404)
    assert.equal((await rpc('/process.Process/SendSignal', '{"process":{"pid":-1},"signal":9}')).status, 400)
    const stream = await rpc('/process.Process/Start', Buffer.from([0, 255, 255, 255, 255, 1]), 'application/connect+json')
    assert.equal(stream.status, 200)
    assert.match(await stream.text(), /invalid_argument/)
    assert.equal((await fetch(`${URL}/init`, { method: 'POST', body: '{}' })).status, 404)
    assert.equal((await fetch(`${URL}/logs`)).status, 404)
    assert.equal((await fetch(`${URL}/files?path=~other/x`)).status, 400)
    assert.equal((await fetch(`${URL}/files?path=/etc/hostname&username=nope`)).status, 401)
  })
  await check('forms that lie are refused', async () => {
    const form = (body, type) => rpc(`/files?path=${directory}/f`, body, type)
    assert.equal((await form('x', 'multipart/form-data')).status, 400)
    assert.equal((await form('no boundary here', 'multipart/form-data; boundary=b')).status, 400)
    assert.equal((await form('--b\r\n\r\nno name\r\n--b--', 'multipart/form-data; boundary=b')).status, 400)
    assert.equal((await form('x', 'text/plain')).status, 400)
    assert.match(await raw('POST /files?path=/x HTTP/1.1\r\nContent-Length: -5\r\n\r\n'), /^HTTP\/1.1 400/)
  })
  await check('ranges', async () => {
    await rpc(`/files?path=${directory}/r`, '0123456789', 'application/octet-stream')
    const get = async (range) => {
      const response = await fetch(`${URL}/files?path=${directory}/r`, { headers: { range } })
      return [response.status, response.status === 206 ? await response.text() : '']
    }
    assert.deepEqual(await get('bytes=2-4'), [206, '234'])
    assert.deepEqual(await get('bytes=7-'), [206, '789'])
    assert.deepEqual(await get('bytes=-2'), [206, '89'])
    assert.equal((await get('bytes=10-'))[0], 416)
    assert.equal((await get('bytes=x'))[0], 200)
  })
}

/** Events of a watch until `wanted` ("TYPE name") have all been seen. */
async function watched(sandbox, path, options, wanted, act) {
  const seen = []
  const handle = await sandbox.files.watchDir(path, (event) => seen.push(event), options)
  const told = (one) => until(`event ${one}`, () => seen.some((event) => `${event.type} ${event.name}` === one))
  await act(told)
  for (const one of wanted) await told(one)
  await handle.stop()
  return seen
}

async function rpc(method, message) {
  const response = await fetch(`${URL}/filesystem.Filesystem/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Basic ${btoa('root:')}` },
    body: JSON.stringify(message),
  })
  return { status: response.status, body: await response.json() }
}

async function watching(sandbox) {
  const root = join(directory, 'watched')
  await check('a watched directory tells of what is made, written, changed, moved and removed', async () => {
    await sandbox.files.makeDir(root)
    const wanted = ['create a', 'write a', 'chmod a', 'rename a', 'create b', 'remove b']
    await watched(sandbox, root, {}, wanted, () =>
      sandbox.commands.run('echo 1 > a; chmod 600 a; mv a b; rm b', { cwd: root, user: 'root' })
    )
  })
  await check('a recursive watch follows new directories, and forgets those that are moved away', async () => {
    await sandbox.files.makeDir(`${root}/old`)
    const shell = (command) => sandbox.commands.run(command, { cwd: root, user: 'root' })
    const act = async (told) => {
      await shell('echo 1 > old/x; mkdir -p new/deep')
      await told('create new/deep')
      await shell('echo 1 > new/deep/y')
      await told('write new/deep/y')
      await shell('mv new ../elsewhere')
      await told('rename new')
      await shell('echo 2 >> ../elsewhere/deep/y; touch end; rm -r ../elsewhere')
    }
    const wanted = ['write old/x', 'create new', 'create new/deep', 'write new/deep/y', 'rename new', 'create end']
    const seen = await watched(sandbox, root, { recursive: true }, wanted, act)
    assert.equal(seen.filter((event) => event.type === 'write' && event.name === 'new/deep/y').length, 1)
    const flat = await watched(sandbox, root, {}, ['create flat'], async () => {
      await sandbox.commands.run('echo 1 > old/z; touch flat', { cwd: root, user: 'root' })
    })
    assert.ok(!flat.some((event) => event.name.startsWith('old/')))
  })
  await check('what cannot be watched is refused', async () => {
    await raises(FileNotFoundError, () => sandbox.files.watchDir(`${root}/missing`, () => {}))
    await raises(InvalidArgumentError, () => sandbox.files.watchDir(`${root}/flat`, () => {}), /not a directory/)
  })
  await check('a watch ends at its time', async () => {
    let error
    await sandbox.files.watchDir(root, () => {}, { timeoutMs: 500, onExit: (why) => (error = why) })
    await until('the end', () => error)
    assert.ok(error instanceof TimeoutError)
  })
  await check('watchers collect events until they are asked', async () => {
    const { watcherId } = (await rpc('CreateWatcher', { path: root, includeEntry: true })).body
    assert.match(watcherId, /^w[a-z0-9]{20}$/)
    await sandbox.files.write(`${root}/polled`, 'text')
    let events = []
    await until('events', async () => {
      events.push(...((await rpc('GetWatcherEvents', { watcherId })).body.events ?? []))
      return events.some((event) => event.type === 'EVENT_TYPE_WRITE')
    })
    assert.equal(events[0].name, 'polled')
    assert.equal(events[0].entry.path, `${root}/polled`)
    await until('no more', async () => (await rpc('GetWatcherEvents', { watcherId })).body.events.length === 0)
    assert.equal((await rpc('RemoveWatcher', { watcherId })).status, 200)
    assert.equal((await rpc('GetWatcherEvents', { watcherId })).status, 404)
  })
}

await start(process.argv[2])
const sandbox = await Sandbox.create(opts)
await commands(sandbox)
await files(sandbox)
await watching(sandbox)
await hostile()
await wire.codec(directory)
await wire.transfers(directory, sandbox)
await wire.secure(process.argv[2], directory)
await wire.large(directory, sandbox, child.pid)
finish()
