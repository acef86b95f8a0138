// What a sandbox reaches, and what it does not. The internet is a server beyond the host that the service runs on, which
// no rule knows of.
import { Sandbox } from '@e2b/code-interpreter'
import { assert, check, opts, SLOW, until } from './harness.mjs'
import { onServiceHost } from './crash.mjs'

const BEYOND = '198.51.100.7' // TEST-NET-2 (RFC 5737)
const HOST = '198.51.100.1'
const BEGIN = `ip netns add atoll-world
ip link add world0 type veth peer name eth0 netns atoll-world
ip addr add ${HOST}/24 dev world0
ip link set world0 up
ip -n atoll-world addr add ${BEYOND}/24 dev eth0
ip -n atoll-world link set eth0 up
mkdir -p /tmp/atoll-world && echo hello > /tmp/atoll-world/hello
for address in ${BEYOND} ${HOST}; do
  case $address in ${HOST}) in= ;; *) in='ip netns exec atoll-world' ;; esac
  $in setsid python3 -m http.server 8099 --bind $address --directory /tmp/atoll-world >/dev/null 2>&1 </dev/null &
done`
const END = `pkill -f '[h]ttp.server 8099'; ip link del world0; ip netns del atoll-world; rm -rf /tmp/atoll-world`

/** "hello", or what curl's exit code was. Where nothing is to come it is not waited for as long. */
const fetched = async (sandbox, address, seconds = 60) => {
  const command = `curl -s -m ${seconds} http://${address}:8099/hello || echo "exit $?"`
  return (await sandbox.commands.run(command, { ...opts, timeoutMs: SLOW })).stdout.trim()
}
const create = (more) => Sandbox.create('base', { ...opts, timeoutMs: 3_600_000, ...more })

async function reaches(made) {
  await check('network: the world is there', async () => {
    await onServiceHost('sh', '-c', END) // of one that was broken off
    await onServiceHost('sh', '-ec', BEGIN)
    await until('it answers', async () =>
      (await onServiceHost('sh', '-c', `for a in ${BEYOND} ${HOST}; do busybox wget -qO - http://$a:8099/hello; done; :`)) === 'hello\nhello\n')
  })
  const on = await create({})
  made.push(on)
  await check('network: a sandbox reaches it', async () => {
    assert.equal(await fetched(on, BEYOND), 'hello')
  })
  await check('network: it reaches neither the host nor the gateway', async () => {
    for (const address of [HOST, '169.254.0.22', '10.0.2.2', '169.254.169.254']) assert.match(await fetched(on, address, 4), /^exit/)
  })
  await check('network: without internet it reaches nothing', async () => {
    const off = await create({ allowInternetAccess: false })
    made.push(off)
    assert.match(await fetched(off, BEYOND, 4), /^exit/)
    assert.match((await off.commands.run('getent ahostsv4 example.com || echo none', { ...opts, timeoutMs: SLOW })).stdout, /none/)
  })
  await check('network: switched off and on while it runs', async () => {
    await on.updateNetwork({ allowInternetAccess: false }, opts)
    assert.match(await fetched(on, BEYOND, 4), /^exit/)
    await onServiceHost('pkill', '-9', '-x', 'atoll-node')
    await until('the node answers', async () => (await Sandbox.getInfo(on.sandboxId, opts)).state === 'running')
    assert.match(await fetched(on, BEYOND, 4), /^exit/)
    await until('it is on', async () => (await on.updateNetwork({ allowInternetAccess: true }, opts)) === undefined)
    assert.equal(await fetched(on, BEYOND), 'hello')
  })
  await check('network: as it was after a pause, and in a fork', async () => {
    await on.pause(opts)
    await Sandbox.connect(on.sandboxId, { ...opts, timeoutMs: 3_600_000 })
    assert.equal(await fetched(on, BEYOND), 'hello')
    await made[1].pause(opts)
    await Sandbox.connect(made[1].sandboxId, { ...opts, timeoutMs: 3_600_000 })
    const [result] = await made[1].fork({ ...opts, timeoutMs: 3_600_000 })
    made.push(result.sandbox ?? result)
    assert.match(await fetched(made[1], BEYOND, 4), /^exit/)
    assert.match(await fetched(made[2], BEYOND, 4), /^exit/)
  })
}

export async function network() {
  const made = []
  try {
    await reaches(made)
  } finally {
    for (const sandbox of made) await sandbox.kill(opts)
    await onServiceHost('sh', '-c', END)
  }
}
