// Figures that only the service's host can tell, by `atoll lab exec`. Each is null where it cannot be had.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const ATOLL = process.env.ATOLL ?? 'atoll'
const HOOKS = process.env.ATOLL_BENCH_HOOKS ?? ''
const NODE_SOCKET = '/run/atoll/node.sock'

async function onServiceHost(...command) {
  const { stdout } = await promisify(execFile)(ATOLL, ['lab', 'exec', '--', ...command], {
    maxBuffer: 64 * 1024 * 1024,
  })
  return stdout
}

async function orNull(body) {
  try {
    return await body()
  } catch (error) {
    process.stderr.write(`bench: ${error.message.split('\n')[0]}\n`)
    return null
  }
}

async function askNode(path) {
  return JSON.parse(await onServiceHost('curl', '-sf', '--unix-socket', NODE_SOCKET, `http://node${path}`))
}

export async function serviceMode() {
  const health = await orNull(() => askNode('/v1/health'))
  return health?.mode ?? 'unknown'
}

/** Private kilobytes per mapping of a process: [{ name, kilobytes }]. */
function parseSmaps(text) {
  const mappings = []
  for (const line of text.split('\n')) {
    const head = line.match(/^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$/)
    const size = line.match(/^Private_(?:Clean|Dirty):\s+(\d+) kB/)
    if (head) mappings.push({ name: head[1], kilobytes: 0 })
    else if (size) mappings[mappings.length - 1].kilobytes += Number(size[1])
  }
  return mappings
}

/** The monitor's own memory: all private pages but those of the mapping that is the guest's memory. */
async function monitorPrivateKilobytes(sandbox) {
  const { pid } = await askNode(`/v1/sandboxes/${sandbox.sandboxId}`)
  const mappings = parseSmaps(await onServiceHost('cat', `/proc/${pid}/smaps`))
  const guest = mappings.filter((mapping) => mapping.name.endsWith('/memory'))
  if (guest.length === 0) throw new Error(`monitor ${pid}: no mapping of the template's memory file`)
  return mappings
    .filter((mapping) => !guest.includes(mapping))
    .reduce((sum, mapping) => sum + mapping.kilobytes, 0)
}

async function agentPrivateKilobytes(sandbox) {
  const { stdout } = await sandbox.commands.run('cat /proc/1/smaps', { user: 'root' })
  return parseSmaps(stdout).reduce((sum, mapping) => sum + mapping.kilobytes, 0)
}

/**
 * A hook is a program in tests/bench/hooks that is run on the service's host and prints milliseconds, one
 * measurement a line: `cold-boot` (monitor start to the guest's init) and `restore` (snapshot load to the first
 * instruction of the guest).
 */
async function hookMilliseconds(name, ...args) {
  const text = await onServiceHost(`${HOOKS}/${name}`, ...args)
  const values = text.trim().split('\n').map(Number)
  if (values.length === 0 || values.some(Number.isNaN)) throw new Error(`hook ${name}: no numbers in its output`)
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)]
}

export async function hostFigures(sandbox) {
  return {
    monitorKilobytes: await orNull(() => monitorPrivateKilobytes(sandbox)),
    agentKilobytes: await orNull(() => agentPrivateKilobytes(sandbox)),
    coldBootMs: await orNull(() => hookMilliseconds('cold-boot', process.env.ATOLL_BENCH_KERNEL)),
    restoreMs: await orNull(() => hookMilliseconds('restore')),
  }
}
