// What a sandbox's user expects of the kernel: guest/selftest in a sandbox. Argument: that program.
import { readFileSync } from 'node:fs'
import { Sandbox } from 'e2b'

const opts = { requestTimeoutMs: 300_000 }
const sandbox = await Sandbox.create('base', { ...opts, timeoutMs: 3_600_000 })
await sandbox.files.write('/tmp/selftest', readFileSync(process.argv[2], 'utf8'), opts)
let output = ''
try {
  const result = await sandbox.commands.run('python3 /tmp/selftest', { ...opts, user: 'root', timeoutMs: 3_000_000 })
  output = result.stdout
} catch (error) {
  output = error.stdout ?? String(error)
}
await sandbox.kill(opts)
console.log(output.trim())
const count = (pattern) => (output.match(pattern) ?? []).length
const passed = count(/^ok /gm)
const failed = count(/^not ok /gm) + (passed === 0 ? 1 : 0)
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
