// Pause, resume, snapshots and forks: memory, processes and files go on where they were.
import { Sandbox } from '@e2b/code-interpreter'
import { assert, check, opts, SLOW, until } from './harness.mjs'
import { onServiceHost } from './crash.mjs'

const COUNT = 'i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done'

const shell = async (sandbox, command) => (await sandbox.commands.run(command, { ...opts, timeoutMs: SLOW })).stdout.trim()
// The shell empties the file before it writes.
const counted = async (sandbox) => Number(await shell(sandbox, 'until grep . /tmp/count; do sleep 0.02; done'))
const connect = (id) => Sandbox.connect(id, { ...opts, timeoutMs: 3_600_000 })
const state = async (id) => (await Sandbox.getInfo(id, opts)).state

/** The counter's process goes on from `least`, and did not begin anew. */
async function goesOn(sandbox, least) {
  const before = await counted(sandbox)
  assert.ok(before >= least, `the count is ${before}, it was ${least} before`)
  await until('the count goes on', async () => (await counted(sandbox)) > before)
  return counted(sandbox)
}

export async function pauses() {
  const sandbox = await check('pause: a sandbox with a process and files', async () => {
    const made = await Sandbox.create('base', { ...opts, timeoutMs: 3_600_000, metadata: { test: 'pause' } })
    await made.commands.run(COUNT, { ...opts, background: true, timeoutMs: 0 })
    await made.files.write('/home/user/first', 'before', opts)
    await until('it counts', async () => (await counted(made)) > 3)
    return made
  })
  if (!sandbox) return
  const id = sandbox.sandboxId
  let count = await counted(sandbox)
  await check('pause: it is paused, listed so, and has no machine', async () => {
    assert.equal(await sandbox.pause(opts), true)
    assert.equal(await state(id), 'paused')
    const page = await Sandbox.list({ ...opts, query: { state: ['paused'] } }).nextItems()
    assert.ok(page.some((item) => item.sandboxId === id))
    await until('it has none', async () => (await onServiceHost('sh', '-c', `ls /run/atoll/sandboxes/${id} 2>/dev/null | wc -l`)).trim() === '0')
  })
  await check('pause: a paused one is paused already', async () => {
    assert.equal(await sandbox.pause(opts), false)
  })
  await check('pause: the node knows of it after a crash', async () => {
    await onServiceHost('pkill', '-9', '-x', 'atoll-node')
    await until('the node answers', async () => (await state(id)) === 'paused')
  })
  await check('resume: processes, files and time go on', async () => {
    await until('it can be connected to', async () => Boolean(await connect(id)))
    assert.equal(await state(id), 'running')
    count = await goesOn(sandbox, count)
    assert.equal(await sandbox.files.read('/home/user/first', opts), 'before')
    const off = Math.abs(Number(await shell(sandbox, 'date +%s')) - Date.now() / 1000)
    assert.ok(off < 60, `the clock is off by ${off} s`)
  })
  await check('pause and resume again, with a layer over the first', async () => {
    await sandbox.files.write('/home/user/second', 'after', opts)
    assert.equal(await sandbox.pause(opts), true)
    await connect(id)
    count = await goesOn(sandbox, count)
    assert.equal(await sandbox.files.read('/home/user/second', opts), 'after')
  })
  await forks(sandbox, count)
  await check('kill of a paused sandbox leaves nothing', async () => {
    assert.equal(await sandbox.pause(opts), true)
    await sandbox.kill(opts)
    await until('nothing is left', async () =>
      (await onServiceHost('sh', '-c', `ls -d /var/lib/atoll/*/${id} /run/atoll/*/${id} 2>/dev/null | grep -v /history/ | wc -l`)).trim() === '0')
  })
  await check('a sandbox that shall pause at its end does', async () => {
    const made = await Sandbox.create('base', { ...opts, timeoutMs: 4_000, lifecycle: { onTimeout: 'pause' } })
    await until('it is paused', async () => (await state(made.sandboxId)) === 'paused')
    const again = await connect(made.sandboxId)
    assert.equal(await shell(again, 'echo awake'), 'awake')
    await again.kill(opts)
  })
  await reboots()
}

const bootId = (sandbox) => shell(sandbox, 'cat /proc/sys/kernel/random/boot_id')
const layers = (id) => onServiceHost('sh', '-c', `ls /var/lib/atoll/sandboxes/${id}`)

/** Pauses that keep the disk alone: the guest boots from it. */
async function reboots() {
  let boot
  const sandbox = await check('pause of the disk: files stay, a new boot', async () => {
    const made = await Sandbox.create('base', { ...opts, timeoutMs: 3_600_000, envs: { KEPT: 'said at the create' } })
    await made.files.write('/home/user/first', 'before', opts)
    await made.commands.run('sleep 12345', { ...opts, background: true, timeoutMs: 0 })
    boot = await bootId(made)
    assert.equal(await made.pause({ keepMemory: false, ...opts }), true)
    assert.equal(await state(made.sandboxId), 'paused')
    assert.doesNotMatch(await layers(made.sandboxId), /memory|state/)
    assert.equal(await made.pause({ keepMemory: false, ...opts }), false)
    await connect(made.sandboxId)
    assert.equal(await state(made.sandboxId), 'running')
    assert.notEqual(await bootId(made), boot)
    assert.equal(await made.files.read('/home/user/first', opts), 'before')
    assert.equal(await shell(made, 'pgrep -f "sleep 1234[5]" | wc -l'), '0')
    assert.equal(await shell(made, 'echo "$KEPT $(whoami) $PWD"'), 'said at the create user /home/user')
    return made
  })
  if (!sandbox) return
  const id = sandbox.sandboxId
  await check('pause of the disk: then one with memory, twice', async () => {
    await sandbox.commands.run(COUNT, { ...opts, background: true, timeoutMs: 0 })
    await until('it counts', async () => (await counted(sandbox)) > 3)
    let count = await counted(sandbox)
    boot = await bootId(sandbox)
    for (const round of [1, 2]) {
      await sandbox.files.write(`/home/user/round${round}`, String(round), opts)
      assert.equal(await sandbox.pause(opts), true)
      await connect(id)
      count = await goesOn(sandbox, count)
      assert.equal(await bootId(sandbox), boot)
      assert.equal(await sandbox.files.read(`/home/user/round${round}`, opts), String(round))
    }
    await forks(sandbox, count)
  })
  await check('pause of the disk: again, and the node crashes while it is paused', async () => {
    await sandbox.files.write('/home/user/second', 'after', opts)
    assert.equal(await sandbox.pause({ keepMemory: false, ...opts }), true)
    await onServiceHost('pkill', '-9', '-x', 'atoll-node')
    await until('the node answers', async () => (await state(id)) === 'paused')
    await until('it can be connected to', async () => Boolean(await connect(id)))
    assert.notEqual(await bootId(sandbox), boot)
    for (const name of ['first', 'round1', 'round2', 'second']) assert.ok(await sandbox.files.exists(`/home/user/${name}`, opts), name)
  })
  await check('pause of the disk: a crash of the node during the boot leaves it paused', async () => {
    boot = await bootId(sandbox)
    assert.equal(await sandbox.pause({ keepMemory: false, ...opts }), true)
    const connecting = connect(id).catch(() => undefined)
    await until('it boots', async () => (await onServiceHost('sh', '-c', `ls -d /run/atoll/sandboxes/${id} 2>/dev/null | wc -l`)).trim() === '1')
    await onServiceHost('pkill', '-9', '-x', 'atoll-node')
    await connecting
    await until('it can be connected to', async () => Boolean(await connect(id)))
    assert.notEqual(await bootId(sandbox), boot)
    assert.equal(await sandbox.files.read('/home/user/second', opts), 'after')
    // Before a snapshot of it, which has no memory below its own.
    const snapshot = await sandbox.createSnapshot(opts)
    const copy = await Sandbox.create(snapshot.snapshotId, { ...opts, timeoutMs: 3_600_000 })
    assert.equal(await bootId(copy), await bootId(sandbox))
    boot = await bootId(copy)
    assert.equal(await copy.pause({ keepMemory: false, ...opts }), true)
    await connect(copy.sandboxId)
    assert.notEqual(await bootId(copy), boot)
    assert.equal(await copy.files.read('/home/user/second', opts), 'after')
    await copy.kill(opts)
    await sandbox.kill(opts)
  })
  await check('pause of the disk at the end', async () => {
    const lifecycle = { onTimeout: { action: 'pause', keepMemory: false } }
    const made = await Sandbox.create('base', { ...opts, timeoutMs: 3_600_000, lifecycle })
    await made.files.write('/home/user/first', 'before', opts)
    boot = await bootId(made)
    await made.setTimeout(2_000, opts)
    await until('it is paused', async () => !/memory|state/.test(await layers(made.sandboxId)) && (await state(made.sandboxId)) === 'paused')
    await connect(made.sandboxId)
    assert.notEqual(await bootId(made), boot)
    assert.equal(await made.files.read('/home/user/first', opts), 'before')
    await made.kill(opts)
  })
  await check('pause of the disk: what the template runs is started again', async () => {
    const made = await Sandbox.create({ ...opts, timeoutMs: 3_600_000 })
    assert.equal(await made.pause({ keepMemory: false, ...opts }), true)
    await connect(made.sandboxId)
    await until('code runs', async () => (await made.runCode('1 + 1', { ...opts, timeoutMs: SLOW })).text === '2')
    await made.kill(opts)
  })
}

async function forks(sandbox, count) {
  await check('snapshot: others begin from what it was', async () => {
    await sandbox.files.write('/home/user/note', 'in the snapshot', opts)
    const snapshot = await sandbox.createSnapshot(opts)
    await sandbox.files.write('/home/user/note', 'later', opts)
    const copy = await Sandbox.create(snapshot.snapshotId, { ...opts, timeoutMs: 3_600_000 })
    assert.notEqual(copy.sandboxId, sandbox.sandboxId)
    assert.equal(await copy.files.read('/home/user/note', opts), 'in the snapshot')
    assert.equal(await sandbox.files.read('/home/user/note', opts), 'later')
    await goesOn(copy, count)
    await copy.kill(opts)
  })
  await check('fork: copies go on by themselves', async () => {
    const results = await sandbox.fork({ ...opts, count: 2, timeoutMs: 3_600_000 })
    const copies = results.map((result) => result.sandbox ?? result)
    assert.equal(copies.length, 2)
    const random = []
    for (const [index, copy] of copies.entries()) {
      await copy.files.write('/home/user/mine', String(index), opts)
      await goesOn(copy, count)
      random.push(await shell(copy, 'head -c 16 /dev/urandom | base64'))
    }
    assert.notEqual(random[0], random[1])
    for (const [index, copy] of copies.entries()) {
      assert.equal(await copy.files.read('/home/user/mine', opts), String(index))
      await copy.kill(opts)
    }
    await goesOn(sandbox, count)
  })
}
