// atoll-api's volumes by the official SDK: volumes.mjs PROGRAM. No node is needed for them.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Volume, VolumeFileType, VolumePathNotFoundError, VolumeNotFoundError } from 'e2b'

const directory = mkdtempSync(join(tmpdir(), 'atoll-volumes-'))
const key = `e2b_${'7'.repeat(40)}`
mkdirSync(join(directory, 'data'))
writeFileSync(join(directory, 'key'), `${key}\n`, { mode: 0o600 })
const port = await new Promise((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address()
    server.close(() => resolve(port))
  })
})
const service = spawn(
  process.argv[2],
  ['--run', directory, '--data', join(directory, 'data'), '--key-file', join(directory, 'key'), '--listen', `127.0.0.1:${port}`],
  { stdio: ['ignore', 'ignore', 'pipe'] },
)
let log = ''
service.stderr.on('data', (data) => (log += data))
for (let i = 0; i < 1200 && !log.includes('listening on'); i++) await sleep(50)
process.env.E2B_API_KEY = key
process.env.E2B_API_URL = process.env.E2B_VOLUME_API_URL = `http://127.0.0.1:${port}`
let passed = 0
let failed = 0
async function check(name, body) {
  try {
    await body()
    passed++
    console.log(`ok      ${name}`)
  } catch (error) {
    failed++
    console.log(`FAILED  ${name}\n${error.stack}`)
  }
}

const volume = await Volume.create(`sdk-${randomBytes(4).toString('hex')}`)
await check('is found again', async () => {
  assert.ok((await Volume.list()).some((found) => found.volumeId === volume.volumeId))
  assert.equal((await Volume.getInfo(volume.volumeId)).name, volume.name)
  const same = await Volume.connect(volume.volumeId)
  assert.equal(same.token, volume.token)
})
await check('text, bytes, blob, stream', async () => {
  const entry = await volume.writeFile('/text.txt', 'grüße\n', { mode: 0o640, uid: 1000, gid: 1001 })
  assert.equal(entry.type, VolumeFileType.FILE)
  assert.deepEqual([entry.mode, entry.uid, entry.gid, entry.size], [0o640, 1000, 1001, 8])
  assert.ok(entry.mtime instanceof Date && Math.abs(entry.mtime - Date.now()) < 60_000)
  assert.equal(await volume.readFile('/text.txt'), 'grüße\n')
  assert.equal(Buffer.from(await volume.readFile('/text.txt', { format: 'bytes' })).toString(), 'grüße\n')
  assert.equal(await (await volume.readFile('/text.txt', { format: 'blob' })).text(), 'grüße\n')
  await volume.writeFile('/empty', '')
  assert.equal(await volume.readFile('/empty'), '')
})
await check('a stream of 20 MiB both ways', async () => {
  const block = randomBytes(1 << 20)
  const sent = createHash('sha256')
  let left = 20
  const source = new ReadableStream({
    pull(controller) {
      if (left-- === 0) return controller.close()
      sent.update(block)
      controller.enqueue(new Uint8Array(block))
    },
  })
  assert.equal((await volume.writeFile('/large', source)).size, 20 << 20)
  const received = createHash('sha256')
  for await (const piece of await volume.readFile('/large', { format: 'stream' })) received.update(piece)
  assert.equal(received.digest('hex'), sent.digest('hex'))
})
await check('directories', async () => {
  await assert.rejects(volume.makeDir('/a/b'), VolumePathNotFoundError)
  assert.equal((await volume.makeDir('/a/b', { force: true })).type, VolumeFileType.DIRECTORY)
  await volume.writeFile('/a/b/c', 'c')
  assert.deepEqual((await volume.list('/a')).map((entry) => entry.path), ['/a/b'])
  assert.deepEqual((await volume.list('/a', { depth: 2 })).map((entry) => entry.path), ['/a/b', '/a/b/c'])
  await assert.rejects(volume.list('/nothing'), VolumePathNotFoundError)
})
await check('what there is about a path', async () => {
  assert.equal(await volume.exists('/a/b/c'), true)
  assert.equal(await volume.exists('/a/b/d'), false)
  const entry = await volume.updateMetadata('/a/b/c', { mode: 0o755, uid: 3 })
  assert.deepEqual([entry.mode, entry.uid, entry.gid], [0o755, 3, 0])
  await assert.rejects(volume.updateMetadata('/a/b/d', { uid: 1 }), VolumePathNotFoundError)
})
await check('overwriting and removing', async () => {
  await assert.rejects(volume.writeFile('/text.txt', 'x'), /409/)
  await volume.writeFile('/text.txt', 'new', { force: true })
  assert.equal(await volume.readFile('/text.txt'), 'new')
  await volume.remove('/a')
  assert.equal(await volume.exists('/a/b/c'), false)
  await assert.rejects(volume.remove('/a'), VolumePathNotFoundError)
  await assert.rejects(volume.readFile('/../../etc/passwd'), /400/)
})
await check('is destroyed', async () => {
  assert.equal(await Volume.destroy(volume.volumeId), true)
  assert.equal(await Volume.destroy(volume.volumeId), false)
  await assert.rejects(Volume.connect(volume.volumeId), VolumeNotFoundError)
})
service.kill('SIGTERM')
await new Promise((resolve) => service.on('exit', resolve))
rmSync(directory, { recursive: true })
if (/Sanitizer|runtime error/.test(log)) failed++
if (failed) console.log(log)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed ? 1 : 0)
