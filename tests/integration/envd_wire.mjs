// The agent's contract below what the SDKs show: the protobuf codec, streamed input, content codings, conditions,
// composing, signed URLs, full disks and bombs (large files and many processes: envd-limits). Used by envd.mjs.
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { gzipSync } from 'node:zlib'
import { getSignature } from 'e2b'
import { assert, check, until } from './harness.mjs'

const URL = 'http://127.0.0.1:49983'
const file = (path, query = '') => `${URL}/files?path=${encodeURIComponent(path)}${query}`
const post = (path, body, headers) => fetch(`${URL}${path}`, { method: 'POST', body, headers })
const OCTETS = { 'content-type': 'application/octet-stream' }

// --- protobuf, as far as these tests need it ---

const varint = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...varint(Math.floor(value / 128))])
const bytesField = (number, bytes) => [...varint(number * 8 + 2), ...varint(bytes.length), ...bytes]
const text = (number, string) => bytesField(number, Buffer.from(string))
const numberField = (number, value) => [...varint(number * 8), ...varint(value)]

/** [[field number, number or Buffer]] of a message. */
function parse(data) {
  const fields = []
  let at = 0
  const number = () => {
    let value = 0
    for (let scale = 1; ; scale *= 128) {
      const byte = data[at++]
      value += (byte & 127) * scale
      if (byte < 128) return value
    }
  }
  while (at < data.length) {
    const tag = number()
    if (tag % 8 === 0) fields.push([tag >> 3, number()])
    else {
      const size = number()
      fields.push([tag >> 3, data.subarray(at, (at += size))])
    }
  }
  return fields
}
const get = (data, ...path) =>
  path.reduce((value, number) => parse(value).find(([field]) => field === number)?.[1], data)

const envelope = (message) => {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, Buffer.from(message)])
}

/** [flags, payload] of each envelope. */
function envelopes(data) {
  const all = []
  for (let at = 0; at < data.length; ) {
    const size = data.readUInt32BE(at + 1)
    all.push([data[at], data.subarray(at + 5, at + 5 + size)])
    at += 5 + size
  }
  return all
}

export async function codec(directory) {
  const unary = (method, message) => post(method, Buffer.from(message), { 'content-type': 'application/proto' })
  const buffer = async (response) => Buffer.from(await response.arrayBuffer())
  await check('protobuf: files', async () => {
    writeFileSync(`${directory}/p.txt`, 'proto')
    const answer = await unary('/filesystem.Filesystem/Stat', text(1, `${directory}/p.txt`))
    assert.equal(answer.headers.get('content-type'), 'application/proto')
    const entry = get(await buffer(answer), 1)
    assert.equal(get(entry, 1).toString(), 'p.txt')
    assert.deepEqual([get(entry, 2), get(entry, 4), get(entry, 5)], [1, 5, 0o644])
    assert.equal(get(entry, 9, 1), Math.floor(statSync(`${directory}/p.txt`).mtimeMs / 1000))
    const missing = await unary('/filesystem.Filesystem/Stat', text(1, '/none'))
    assert.equal(missing.status, 404)
    assert.equal((await missing.json()).code, 'not_found')
  })
  await check('protobuf: a process, its output and its end', async () => {
    const config = [...text(1, '/bin/sh'), ...text(2, '-c'), ...text(2, 'printf "$V"; exit 3')]
    config.push(...bytesField(3, [...text(1, 'V'), ...text(2, 'a\u00e9')]))
    const start = bytesField(1, config)
    const answer = await post('/process.Process/Start', envelope(start), { 'content-type': 'application/connect+proto' })
    assert.equal(answer.headers.get('content-type'), 'application/connect+proto')
    const all = envelopes(await buffer(answer))
    assert.ok(get(all[0][1], 1, 1, 1) > 1)
    assert.equal(get(all[1][1], 1, 2, 1).toString(), 'a\u00e9')
    const end = get(all[2][1], 1, 3)
    assert.deepEqual([get(end, 1), get(end, 2), get(end, 3).toString()], [6, 1, 'exit status 3'])
    assert.deepEqual([all[3][0], all[3][1].toString()], [2, '{}'])
  })
  await check('protobuf: nonsense is refused', async () => {
    for (const bytes of [[255], [10, 200, 1], [8, 1], [11, 12], [10, 2, 0xc3, 0x28], [10, 1, 0], Array(20).fill(255)]) {
      const answer = await unary('/filesystem.Filesystem/Stat', bytes)
      assert.equal(answer.status, 400, `${bytes}`)
      assert.equal((await answer.json()).code, 'invalid_argument')
    }
  })
  await check('input as one stream, with a program that is slow to take it', async () => {
    const out = `${directory}/streamed`
    const run = post(
      '/process.Process/Start',
      envelope(Buffer.from(JSON.stringify({ process: { cmd: '/bin/sh', args: ['-c', `sleep 1; cat > ${out}`] }, tag: 'streamed', stdin: true }))),
      { 'content-type': 'application/connect+json' }
    )
    const message = (value) => envelope(Buffer.from(JSON.stringify(value)))
    const block = randomBytes(700_000)
    const hash = createHash('sha256')
    const selector = { process: { tag: 'streamed' } }
    let left = 40
    await until('the process', async () =>
      (await (await post('/process.Process/List', '{}', { 'content-type': 'application/json' })).json()).processes.some((p) => p.tag === 'streamed'))
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(message({ start: selector })),
      pull(controller) {
        if (left-- === 0) return controller.close()
        hash.update(block)
        controller.enqueue(message({ data: { input: { stdin: block.toString('base64') } } }))
      },
    })
    const answer = await fetch(`${URL}/process.Process/StreamInput`, {
      method: 'POST', body, duplex: 'half', headers: { 'content-type': 'application/connect+json' },
    })
    assert.deepEqual(envelopes(await buffer(answer)).map(([flags, data]) => [flags, data.toString()]), [[0, '{}'], [2, '{}']])
    await post('/process.Process/CloseStdin', JSON.stringify(selector), { 'content-type': 'application/json' })
    await (await run).arrayBuffer()
    assert.equal(createHash('sha256').update(readFileSync(out)).digest('hex'), hash.digest('hex'))
    const lost = await post('/process.Process/StreamInput', message({ data: {} }), { 'content-type': 'application/connect+json' })
    assert.match(await lost.text(), /invalid_argument/)
  })
}

export async function transfers(directory, sandbox) {
  const path = `${directory}/plain.txt`
  const content = 'all work and no play makes jack a dull boy\n'.repeat(5000)
  writeFileSync(path, content)
  await check('gzip: what is asked for is answered', async () => {
    const read = async (accept, more) => {
      const answer = await fetch(file(path), { headers: { 'accept-encoding': accept, ...more } })
      const body = await answer.text()
      if (answer.ok) assert.ok(body === content || (answer.status === 206 && body === 'all'))
      return [answer.status, answer.headers.get('content-encoding')]
    }
    assert.deepEqual(await read('gzip'), [200, 'gzip'])
    assert.deepEqual(await read('gzip;q=0.2, identity;q=0.5'), [200, null])
    assert.deepEqual(await read('br, *;q=0.1'), [200, null])
    assert.deepEqual(await read('identity;q=0, *'), [200, 'gzip'])
    assert.deepEqual(await read('identity;q=0'), [406, null])
    assert.deepEqual(await read('gzip', { range: 'bytes=0-2' }), [206, null])
  })
  await check('gzip: uploads are unpacked, and broken ones refused', async () => {
    const up = (body, coding = 'gzip') => post(`/files?path=${directory}/up`, body, { ...OCTETS, 'content-encoding': coding })
    assert.equal((await up(Buffer.concat([gzipSync(content), gzipSync('more')]))).status, 200)
    assert.equal(readFileSync(`${directory}/up`, 'utf8'), `${content}more`)
    assert.equal((await up(gzipSync(content).subarray(0, 100))).status, 400)
    assert.equal((await up('no gzip at all')).status, 400)
    assert.equal((await up('')).status, 400)
    assert.equal((await up('x', 'br')).status, 400)
    const form = Buffer.from(`--b\r\nContent-Disposition: form-data; name="file"; filename="${directory}/f"\r\n\r\nform\r\n--b--\r\n`)
    const answer = await post('/files', gzipSync(form), { 'content-type': 'multipart/form-data; boundary=b', 'content-encoding': 'gzip' })
    assert.equal(answer.status, 200)
    assert.equal(readFileSync(`${directory}/f`, 'utf8'), 'form')
  })
  await check('conditional requests', async () => {
    const first = await fetch(file(path), { headers: { 'accept-encoding': 'identity' } })
    const [etag, date] = [first.headers.get('etag'), first.headers.get('last-modified')]
    await first.text()
    assert.equal(Date.parse(date), Math.floor(statSync(path).mtimeMs / 1000) * 1000)
    const status = async (headers) => {
      const answer = await fetch(file(path), { headers: headers })
      await answer.text()
      return answer.status
    }
    const packed = await fetch(file(path), { headers: { 'accept-encoding': 'gzip' } })
    assert.equal(packed.headers.get('etag'), `W/${etag}`)
    await packed.text()
    const old = 'Sun, 06 Nov 1994 08:49:37 GMT'
    assert.equal(await status({ 'if-none-match': etag }), 304)
    assert.equal(await status({ 'if-none-match': `"x", W/${etag}` }), 304)
    assert.equal(await status({ 'if-none-match': '"x"', 'if-modified-since': date }), 200)
    assert.equal(await status({ 'if-modified-since': date }), 304)
    assert.equal(await status({ 'if-modified-since': old }), 200)
    assert.equal(await status({ 'if-match': '"x"' }), 412)
    assert.equal(await status({ 'if-match': etag }), 200)
    assert.equal(await status({ 'if-unmodified-since': old }), 412)
    assert.equal(await status({ range: 'bytes=0-2', 'if-range': etag }), 206)
    assert.equal(await status({ range: 'bytes=0-2', 'if-range': '"x"' }), 200)
    assert.equal(await status({ range: 'bytes=0-2', 'if-range': date }), 206)
  })
  await check('metadata lives with the file until the next upload', async () => {
    const target = `${directory}/meta`
    const up = (headers) => post(`/files?path=${target}`, 'x', { ...OCTETS, ...headers })
    assert.deepEqual((await (await up({ 'x-metadata-Author': 'a b' })).json())[0].metadata, { author: 'a b' })
    assert.deepEqual((await sandbox.files.getInfo(target)).metadata, { author: 'a b' })
    assert.equal((await (await up({})).json())[0].metadata, undefined)
    assert.equal((await up({ 'x-metadata-a': 'x'.repeat(4097) })).status, 400)
    assert.equal((await up({ [`x-metadata-${'k'.repeat(247)}`]: 'x' })).status, 400)
  })
  await check('compose joins files and removes them', async () => {
    const compose = (body) => post('/files/compose', JSON.stringify(body), { 'content-type': 'application/json' })
    const parts = [1, 2, 3].map((i) => `${directory}/part${i}`)
    for (const [i, part] of parts.entries()) writeFileSync(part, `${i}`.repeat(100_000))
    const answer = await compose({ source_paths: parts, destination: `${directory}/new/whole` })
    assert.deepEqual(await answer.json(), { path: `${directory}/new/whole`, name: 'whole', type: 'file' })
    assert.equal(readFileSync(`${directory}/new/whole`, 'utf8'), [0, 1, 2].map((i) => `${i}`.repeat(100_000)).join(''))
    assert.ok(parts.every((part) => !existsSync(part)))
    assert.equal((await compose({ source_paths: [], destination: '/x' })).status, 400)
    assert.equal((await compose({ source_paths: ['/none'], destination: `${directory}/x` })).status, 404)
    assert.equal((await compose({ source_paths: [directory], destination: `${directory}/x` })).status, 400)
    assert.equal((await compose({ source_paths: [path], destination: path })).status, 400)
    assert.equal((await compose({ source_paths: [path], destination: `${directory}/x`, username: 'nope' })).status, 401)
  })
  await check('a full disk is said to be full', async () => {
    // (Its own mount needs root and a mount name space; /dev/full is enough for the error.)
    const answer = await post('/files?path=/dev/full', 'x', OCTETS)
    assert.equal(answer.status, 507)
    assert.equal((await answer.json()).message, 'not enough disk space available')
  })
}

/** A second agent, that asks for a token. */
export async function secure(program, directory) {
  // One that the kernel gives away, and not to a client of before.
  const port = await new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
  const url = `http://127.0.0.1:${port}`
  const child = spawn(program, ['--native', '--port', `${port}`, '--token', 'secret'], { stdio: 'inherit' })
  const path = `${directory}/secret`
  const signed = async (operation, more = {}) => {
    const { signature, expiration } = await getSignature({ path, operation, user: 'root', envdAccessToken: 'secret', ...more })
    const query = new URLSearchParams({ path, username: 'root', signature })
    if (expiration) query.set('signature_expiration', expiration)
    return `${url}/files?${query}`
  }
  const status = async (target, init) => {
    const answer = await fetch(target, init)
    await answer.arrayBuffer()
    return answer.status
  }
  try {
    await until('health', async () => (await fetch(`${url}/health`)).status === 204)
    await check('a secured agent wants its token', async () => {
      const list = (headers) => status(`${url}/process.Process/List`, { method: 'POST', body: '{}', headers: { 'content-type': 'application/json', ...headers } })
      assert.equal(await list({}), 401)
      assert.equal(await list({ 'x-access-token': 'wrong' }), 401)
      assert.equal(await list({ 'x-access-token': 'secret' }), 200)
      assert.equal(await status(`${url}/metrics`), 401)
      assert.equal(await status(`${url}/files/compose`, { method: 'POST', body: '{}' }), 401)
    })
    await check('signed URLs', async () => {
      const body = new Blob(['signed'])
      const up = (target) => status(target, { method: 'POST', body, headers: OCTETS })
      assert.equal(await up(`${url}/files?path=${path}`), 401)
      assert.equal(await up(await signed('write')), 200)
      assert.equal(await status(await signed('read')), 200)
      assert.equal(await up(await signed('read')), 401)
      assert.equal(await status(await signed('read', { expirationInSeconds: 60 })), 200)
      assert.equal(await status(await signed('read', { expirationInSeconds: -60 })), 401)
      assert.equal(await status((await signed('read', { expirationInSeconds: 60 })).replace(/expiration=\d+/, 'expiration=9999999999')), 401)
      assert.equal(await status((await signed('read')).replace('secret', 'other')), 401)
    })
  } finally {
    child.kill('SIGTERM')
  }
}

const peakOf = (pid) => Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1])

/** ENVD_TEST_MIB: how large (5120 in the long run, with ACCEPTANCE_TIMEOUT_MS=1800000 on a slow machine). */
export async function large(directory, sandbox, pid) {
  const mib = Number(process.env.ENVD_TEST_MIB ?? 300)
  const path = `${directory}/large`
  await check(`${mib} MiB go both ways in constant memory`, async () => {
    const block = randomBytes(1 << 20)
    const hash = createHash('sha256')
    let left = mib
    writeFileSync(`/proc/${pid}/clear_refs`, '5')
    const before = peakOf(pid)
    const stream = new ReadableStream({
      pull(controller) {
        if (left-- === 0) return controller.close()
        block.writeUInt32LE(left)
        hash.update(block)
        controller.enqueue(new Uint8Array(block))
      },
    })
    await sandbox.files.write(path, stream, { useOctetStream: true, requestTimeoutMs: 0 })
    assert.equal(statSync(path).size, mib * (1 << 20))
    const back = createHash('sha256')
    for await (const chunk of await sandbox.files.read(path, { format: 'stream', requestTimeoutMs: 0 })) back.update(chunk)
    assert.equal(back.digest('hex'), hash.digest('hex'))
    assert.ok(peakOf(pid) - before < 4096, `the agent grew from ${before} to ${peakOf(pid)} KiB`)
  })
  unlinkSync(path)
  await check('a bomb of 200 MiB is unpacked in constant memory', async () => {
    const bomb = gzipSync(Buffer.alloc(200 << 20), { level: 9 })
    writeFileSync(`/proc/${pid}/clear_refs`, '5')
    const before = peakOf(pid)
    assert.equal((await post(`/files?path=${path}`, bomb, { ...OCTETS, 'content-encoding': 'gzip' })).status, 200)
    assert.equal(statSync(path).size, 200 << 20)
    const answer = await fetch(file(path), { headers: { 'accept-encoding': 'gzip' } })
    let size = 0
    for await (const chunk of answer.body) size += chunk.length
    assert.equal(size, 200 << 20)
    assert.ok(peakOf(pid) - before < 4096, `the agent grew from ${before} to ${peakOf(pid)} KiB`)
  })
  unlinkSync(path)
}
