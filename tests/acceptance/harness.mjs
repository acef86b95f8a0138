// A list of named checks, run one after the other; each prints one line.
import assert from 'node:assert/strict'

export { assert }

// The service may run under software emulation, so nothing here is in a hurry.
export const SLOW = Number(process.env.ACCEPTANCE_TIMEOUT_MS ?? 300_000)
export const opts = { requestTimeoutMs: SLOW }

let passed = 0
let failed = 0
let skipped = 0

/** Run one check. Its result, or undefined when it failed. */
export async function check(name, body) {
  const start = Date.now()
  let timer
  try {
    const deadline = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${6 * SLOW} ms`)), 6 * SLOW)
    })
    const result = await Promise.race([body(), deadline])
    passed += 1
    console.log(`ok      js  ${name} (${Date.now() - start} ms)`)
    return result
  } catch (error) {
    failed += 1
    const text = `${error?.name}: ${error?.message}`.split('\n').slice(0, 12).join('\n        ')
    console.log(`FAILED  js  ${name} (${Date.now() - start} ms)\n        ${text}`)
    return undefined
  } finally {
    clearTimeout(timer)
  }
}

export function skip(name, reason) {
  skipped += 1
  console.log(`skipped js  ${name}: ${reason}`)
}

/** Call, and demand an exception of exactly this kind. */
export async function raises(kind, body, pattern = /./s) {
  let result
  try {
    result = await body()
  } catch (error) {
    assert.ok(error instanceof kind, `raised ${error?.constructor?.name} (${error?.message}), want ${kind.name}`)
    assert.match(String(error.message), pattern)
    return error
  }
  throw new Error(`no ${kind.name}, but ${JSON.stringify(result)}`)
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Call until it answers true. */
export async function until(what, body, timeoutMs = SLOW) {
  const end = Date.now() + timeoutMs
  for (;;) {
    let last
    try {
      if (await body()) return
    } catch (error) {
      last = error
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms${last ? `: ${last.message}` : ''}`)
    await sleep(200)
  }
}

/** Print the count and end the program. */
export function finish() {
  console.log(`${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`)
  process.exit(failed === 0 ? 0 : 1)
}
