// Volumes mounted in sandboxes: one set of files for the content API and for all who have mounted it.
import { Sandbox, Volume } from '@e2b/code-interpreter'
import { assert, check, opts, SLOW, until } from './harness.mjs'
import { nodeAnswers, onServiceHost } from './crash.mjs'

const MOUNT = '/mnt/shared'

const shell = async (sandbox, command) => (await sandbox.commands.run(command, { ...opts, timeoutMs: SLOW })).stdout.trim()
const create = (volume) => Sandbox.create('base', { ...opts, timeoutMs: 3_600_000, volumeMounts: { [MOUNT]: volume } })

export async function volumes() {
  const volume = await Volume.create(`acceptance-${process.pid}`, opts)
  let one, other
  await check('volume: mounted, with the files that it has', async () => {
    await volume.writeFile('/greeting', 'from outside', opts)
    one = await create(volume)
    assert.equal(await shell(one, `cat ${MOUNT}/greeting; grep -c ' ${MOUNT} fuse' /proc/mounts`), 'from outside1')
    assert.deepEqual((await Sandbox.getInfo(one.sandboxId, opts)).volumeMounts, [{ name: volume.name, path: MOUNT }])
  })
  if (!one) return
  await check('volume: what a guest writes is there for others', async () => {
    await shell(one, `mkdir -p ${MOUNT}/a/b && echo -n inside > ${MOUNT}/a/b/file && ln -s b/file ${MOUNT}/a/link`)
    assert.equal(await volume.readFile('/a/b/file', opts), 'inside')
    other = await create(volume.name)
    assert.equal(await shell(other, `cat ${MOUNT}/a/link`), 'inside')
    await shell(other, `mv ${MOUNT}/a/b/file ${MOUNT}/moved && rm -r ${MOUNT}/a`)
    await until('the other sees it', async () => (await shell(one, `ls ${MOUNT}`)) === 'greeting\nmoved')
  })
  await check('volume: 16 MiB go in and come out', async () => {
    const before = await shell(one, `head -c 16777216 /dev/urandom > /tmp/large && cp /tmp/large ${MOUNT}/large && sha256sum < /tmp/large`)
    assert.equal(await shell(other, `sha256sum < ${MOUNT}/large`), before)
  })
  await check('volume: an open file outlives its name', async () => {
    const script = `cd ${MOUNT} && exec 3<>temporary && rm temporary && echo kept >&3 && stat -L -c %s /proc/self/fd/3 && exec 3>&- && cd /`
    assert.equal(await shell(one, script), '5')
    await until('it is gone', async () => (await shell(other, `ls -A ${MOUNT}`)) === 'greeting\nlarge\nmoved')
  })
  await check('volume: an open file outlives a pause', async () => {
    await one.commands.run(`exec 3>>${MOUNT}/log; i=0; while :; do i=$((i+1)); echo $i >&3; sleep 0.1; done`, { ...opts, background: true, timeoutMs: 0 })
    await until('it writes', async () => (await volume.readFile('/log', opts)).length > 4)
    await one.pause(opts)
    const paused = await volume.readFile('/log', opts)
    one = await Sandbox.connect(one.sandboxId, { ...opts, timeoutMs: 3_600_000 })
    await until('it goes on', async () => (await volume.readFile('/log', opts)).length > paused.length + 4)
  })
  await check('volume: nothing is lost when atoll-api and atoll-node are killed', async () => {
    await onServiceHost('pkill', '-9', '-x', 'atoll-api')
    await onServiceHost('pkill', '-9', '-x', 'atoll-node')
    await until('the service answers', async () => (await shell(one, `tail -n 1 ${MOUNT}/log`)) !== '')
    const before = (await volume.readFile('/log', opts)).length
    await until('it goes on', async () => (await volume.readFile('/log', opts)).length > before + 4)
    const lines = (await volume.readFile('/log', opts)).trimEnd().split('\n').map(Number)
    assert.deepEqual(lines, lines.map((_, index) => index + 1))
  })
  await check('volume: a fork has it', async () => {
    await nodeAnswers(one)
    const [result] = await one.fork({ ...opts, timeoutMs: 3_600_000 })
    const fork = result.sandbox ?? result
    assert.equal(await shell(fork, `cat ${MOUNT}/greeting`), 'from outside')
    await fork.kill(opts)
  })
  await check('volume: one that is not there is refused', async () => {
    await assert.rejects(create('no-such-volume'), /not found/)
  })
  await Promise.all([one, other].map((sandbox) => sandbox?.kill(opts)))
  await Volume.destroy(volume.volumeId, opts)
}
