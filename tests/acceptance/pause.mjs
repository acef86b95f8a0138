// Pause, resume, snapshots and forks: memory, processes and files go on where they were.
import { Sandbox } from '@e2b/code-interpreter'
import { assert, check, opts, SLOW, until } from './harness.mjs'
import { onServiceHost } from './crash.mjs'

const COUNT = 'i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done'

const shell = async (sandbox, command) => (await sandbox.commands.run(command, { ...opts, timeoutMs: SLOW })).stdout.trim()
const counted = async (sandbox) => Number(await shell(sandbox, 'cat /tmp/count'))
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
    assert.equal((await onServiceHost('sh', '-c', `ls /run/atoll/sandboxes/${id} 2>/dev/null | wc -l`)).trim(), '0')
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
    const left = await onServiceHost('sh', '-c', `ls -d /var/lib/atoll/*/${id} /run/atoll/*/${id} 2>/dev/null | wc -l`)
    assert.equal(left.trim(), '0')
  })
  await check('a sandbox that shall pause at its end does', async () => {
    const made = await Sandbox.create('base', { ...opts, timeoutMs: 4_000, lifecycle: { onTimeout: 'pause' } })
    await until('it is paused', async () => (await state(made.sandboxId)) === 'paused')
    const again = await connect(made.sandboxId)
    assert.equal(await shell(again, 'echo awake'), 'awake')
    await again.kill(opts)
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
