// The node's parts on real files and a real socket: what waits survives, what is wrong goes, what is refused is named.
'use strict'
const assert = require('node:assert')
const { test } = require('node:test')
const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const path = require('node:path')
const { spawnSync } = require('node:child_process')
const { EventEmitter, once } = require('node:events')
const { Journal } = require('../journal')
const { Sender } = require('../sender')
const { record } = require('../redforge-out')

const folder = () => fs.mkdtempSync(path.join(os.tmpdir(), 'redforge-out-'))
const limits = { records: 1000, bytes: 1 << 20 }
const line = n => JSON.stringify({ class: 'event', key: `k${n}`, name: 'n', payload: { n } })
const keys = journal => journal.queue.map(e => JSON.parse(e.line).key)

test('what waits is there again after an end without a goodbye, and a torn line is not', () => {
  const at = folder()
  const first = new Journal(at, limits)
  for (let n = 1; n <= 5; n++) first.add(line(n))
  first.forget(2)
  // No close: the process was killed. The last line is torn.
  fs.appendFileSync(path.join(at, 'waiting.ndjson'), '{"n":6,"r":{"key":"k6"')
  const second = new Journal(at, limits)
  assert.deepEqual(keys(second), ['k3', 'k4', 'k5'])
  assert.equal(second.add(line(6)), 6, 'no number is given twice')
  second.forget(6)
  second.close()
  const third = new Journal(at, limits)
  assert.deepEqual(keys(third), [])
  assert.equal(third.add(line(7)), 7)
  assert.deepEqual(keys(new Journal(at, limits)), ['k7'])
})

test('without room a record is refused and none that was taken is lost, and with room it goes on', () => {
  const at = folder()
  // A limit of the size of files, which takes a part of a line first and says nothing, as a full disk does.
  const script = `
    const { Journal } = require(${JSON.stringify(require.resolve('../journal'))})
    const journal = new Journal(${JSON.stringify(at)}, { records: 1e6, bytes: 1e9 })
    const taken = [], refused = []
    const add = n => { try { journal.add(JSON.stringify({ key: 'k' + n, x: 'x'.repeat(1000) })); taken.push('k' + n) } catch (e) { refused.push(e.code) } }
    for (let n = 0; n < 300; n++) add(n)
    const full = refused.length
    journal.forget(journal.last)
    add(300)
    console.log(JSON.stringify({ taken, refused, full, waiting: journal.length }))`
  const run = code => spawnSync('sh', ['-c', 'ulimit -f 512; exec "$@"', 'sh', process.execPath, '-e', code], { encoding: 'utf8' })
  const without = run(script.replace('journal.forget(journal.last)', ''))
  const full = JSON.parse(without.stdout)
  assert.ok(full.taken.length > 100 && full.refused.length > 1, without.stdout + without.stderr)
  assert.deepEqual(new Set(full.refused), new Set(['EFBIG']))
  // Opened without the limit: exactly what was taken is there.
  assert.deepEqual(keys(new Journal(at, { records: 1e6, bytes: 1e9 })), full.taken)
  fs.rmSync(at, { recursive: true })
  const later = run(script)
  const again = JSON.parse(later.stdout)
  assert.equal(again.refused.length, again.full, later.stdout + later.stderr)
  assert.deepEqual(keys(new Journal(at, { records: 1e6, bytes: 1e9 })), ['k300'])
})

test('the number of what is done is whole whatever stood there before', () => {
  const at = folder()
  const journal = new Journal(at, limits)
  for (let n = 1; n <= 12; n++) journal.add(line(n))
  journal.forget(12)
  journal.close()
  assert.equal(new Journal(at, limits).length, 0)
})

test('room is counted in records and in bytes', () => {
  const journal = new Journal(folder(), { records: 3, bytes: 200 })
  assert.ok(journal.fits(10) && !journal.fits(201))
  journal.add(line(1)); journal.add(line(2)); journal.add(line(3))
  assert.ok(!journal.fits(1))
  journal.forget(1)
  assert.ok(journal.fits(1))
  assert.equal(journal.oldest(10, 1).length, 1, 'one is always given')
})

// A gateway that answers what the test says; remembers what it took.
async function gateway (answer) {
  const seen = []
  const server = http.createServer((request, response) => {
    let body = ''
    request.on('data', d => { body += d })
    request.on('end', () => {
      const records = body.split('\n').filter(l => l !== '').map(l => JSON.parse(l))
      const { status, headers, json } = answer(records, request)
      if (status === 202) seen.push(...records.map(r => r.key))
      response.writeHead(status, headers).end(JSON.stringify(json || {}))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, seen, url: `http://127.0.0.1:${server.address().port}/v1/records` }
}

function sending (journal, url) {
  const said = new EventEmitter()
  const log = []
  const tell = (what, ...rest) => { log.push([what, ...rest]); said.emit('news') }
  const sender = new Sender(journal, { url, token: 't' }, {
    taken: e => tell('taken', JSON.parse(e.line).key),
    refused: (e, why) => tell('refused', JSON.parse(e.line).key, why),
    trouble: why => tell('trouble', why)
  })
  const until = async holds => { while (!holds(log)) await once(said, 'news') }
  return { sender, log, until }
}

test('everything is taken in order, and the token is shown', async () => {
  const { server, seen, url } = await gateway((_, request) => ({ status: request.headers.authorization === 'Bearer t' ? 202 : 401 }))
  const journal = new Journal(folder(), limits)
  for (let n = 0; n < 250; n++) journal.add(line(n))
  const { sender, until } = sending(journal, url)
  sender.wake()
  await until(log => log.filter(l => l[0] === 'taken').length === 250)
  assert.deepEqual(seen, Array.from({ length: 250 }, (_, n) => `k${n}`))
  assert.equal(journal.length, 0)
  sender.stop(); server.close()
})

test('a wrong record is given back by its field and the others are taken', async () => {
  const { server, seen, url } = await gateway(records => {
    const index = records.findIndex(r => ['k3', 'k4'].includes(r.key))
    return index < 0 ? { status: 202 } : { status: 422, json: { detail: 'is wrong', field: 'payload', index } }
  })
  const journal = new Journal(folder(), limits)
  for (let n = 0; n < 10; n++) journal.add(line(n))
  const { sender, log, until } = sending(journal, url)
  sender.wake()
  await until(log => log.filter(l => l[0] !== 'trouble').length === 10)
  assert.deepEqual(seen, ['k0', 'k1', 'k2', 'k5', 'k6', 'k7', 'k8', 'k9'])
  assert.deepEqual(log.filter(l => l[0] === 'refused'), [['refused', 'k3', 'payload: is wrong'], ['refused', 'k4', 'payload: is wrong']])
  sender.stop(); server.close()
})

test('without room it comes back when it was told to, and nothing is lost meanwhile', async () => {
  let asked = []
  const { server, seen, url } = await gateway(() => {
    asked.push(Date.now())
    return asked.length < 3 ? { status: 429, headers: { 'retry-after': '1' }, json: { detail: 'full' } } : { status: 202 }
  })
  const journal = new Journal(folder(), limits)
  journal.add(line(1))
  const { sender, log, until } = sending(journal, url)
  sender.wake()
  await until(log => log.some(l => l[0] === 'taken'))
  assert.ok(asked[1] - asked[0] >= 950 && asked[2] - asked[1] >= 950, `it came back after ${asked[1] - asked[0]} ms`)
  assert.deepEqual(log.filter(l => l[0] === 'trouble').map(l => l[1]), ['full', 'full', null])
  assert.deepEqual(seen, ['k1'])
  sender.stop(); server.close()
})

test('a gateway that is away is asked again until it is there', async () => {
  const { server, url } = await gateway(() => ({ status: 202 }))
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  const journal = new Journal(folder(), limits)
  journal.add(line(1))
  const { sender, until } = sending(journal, url)
  sender.wake()
  await until(log => log.some(l => l[0] === 'trouble' && /cannot be reached/.test(l[1])))
  assert.equal(journal.length, 1)
  const back = http.createServer((request, response) => { request.resume(); response.writeHead(202).end('{}') })
  back.listen(port, '127.0.0.1')
  await until(log => log.some(l => l[0] === 'taken'))
  sender.stop(); back.close()
})

test('a message becomes a record with a key and a time', () => {
  const at = '2026-11-23T10:00:00Z'
  assert.deepEqual(record({ payload: { name: 'n', payload: {}, at }, key: 'k' }, { class: 'event' }),
    { class: 'event', name: 'n', payload: {}, at, key: 'k' })
  assert.deepEqual(record({ payload: 21.5, key: 7 }, { class: 'measurement', name: 't', unit: 'C' }).value, 21.5)
  assert.equal(record({ payload: 'text', key: 'k' }, { class: 'log' }).line, 'text')
  assert.deepEqual(record({ payload: { a: 1 }, key: 'k' }, { class: 'event', name: 'cycle' }).payload, { a: 1 })
  const drawn = record({ payload: { name: 'n', payload: {} } }, { class: 'event' })
  assert.match(drawn.key, /^[0-9a-f-]{36}$/)
  assert.ok(drawn.at)
  for (const msg of [{ payload: 'text' }, { payload: null }, { payload: [1] }, { payload: {}, class: 'rumour' }]) {
    assert.throws(() => record(msg, { class: 'event' }))
  }
})
