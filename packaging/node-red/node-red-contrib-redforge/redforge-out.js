// The node `redforge out`: a message becomes a record with a key, is written to disk, handed to the agent of this host, and
// done once the agent has committed it. What a flow gives it is not lost by a restart of the agent or of Node-RED.
'use strict'
const crypto = require('crypto')
const path = require('path')
const { Journal } = require('./journal')
const { Sender } = require('./sender')

const CLASSES = ['vector', 'log', 'event', 'measurement']
const MOST_RECORD_BYTES = 512 << 10

// The record of a message: msg.payload as it is, or wrapped by what the node is set to.
function record (msg, config) {
  const cls = msg.class || config.class || 'event'
  if (!CLASSES.includes(cls)) throw new Error(`'${cls}' is not a class of records: ${CLASSES.join(', ')}`)
  const { payload } = msg
  const isObject = payload !== null && typeof payload === 'object' && !Array.isArray(payload) && !Buffer.isBuffer(payload)
  let body
  if (config.name && cls === 'event') body = { name: config.name, payload: isObject ? payload : { value: payload } }
  else if (config.name && cls === 'measurement') body = { name: config.name, value: payload, unit: config.unit || '' }
  else if (cls === 'log' && typeof payload === 'string') body = { line: payload }
  else if (isObject) body = { ...payload }
  else throw new Error(`msg.payload is no record: an object is needed${cls === 'event' || cls === 'measurement' ? ', or a name set in the node' : ''}`)
  // The key makes a repeat harmless. A flow's own is better: it also holds for what the flow itself does twice.
  body.key = String(msg.key || body.key || crypto.randomUUID())
  // When it happened, not when it could be handed over.
  if (body.at === undefined) body.at = new Date().toISOString()
  body.class = cls
  return body
}

module.exports = function (RED) {
  function RedforgeOut (config) {
    RED.nodes.createNode(this, config)
    const node = this
    const url = process.env.REDFORGE_INGEST_URL
    const token = process.env.REDFORGE_INGEST_TOKEN
    const limits = {
      records: Number(config.maxRecords) > 0 ? Number(config.maxRecords) : 10_000,
      bytes: (Number(config.maxMiB) > 0 ? Number(config.maxMiB) : 64) << 20
    }
    const drops = config.whenFull === 'oldest'
    const folder = path.join(RED.settings.userDir || '.', 'redforge-out', node.id.replace(/[^\w.-]/g, '_'))
    const open = new Map() // number -> {msg, done}
    const count = { sent: 0, refused: 0, dropped: 0 }
    let trouble = null
    let last = ''

    function show () {
      const parts = [`sent ${count.sent}`, `waiting ${journal ? journal.length : 0}`]
      if (count.refused > 0) parts.push(`refused ${count.refused}`)
      if (count.dropped > 0) parts.push(`dropped ${count.dropped}`)
      if (trouble) parts.push(trouble)
      const text = parts.join(', ')
      if (text === last) return
      last = text
      const fill = trouble ? 'red' : journal && journal.length > 0 ? 'yellow' : 'green'
      node.status({ fill, shape: trouble ? 'ring' : 'dot', text })
    }
    // A thousand messages a second are not a thousand lines under the node.
    const shower = setInterval(show, 500)

    let journal, sender
    try {
      journal = new Journal(folder, limits)
    } catch (e) {
      trouble = `nothing can be kept in ${folder}: ${e.message}`
      node.error(trouble)
    }
    if (!url || !token) trouble = 'no gateway: REDFORGE_INGEST_URL is set on a RedForge host only'

    function finish (n, error) {
      const waiting = open.get(n)
      open.delete(n)
      if (waiting) waiting.done(error)
      else if (error) node.error(error)
    }

    if (journal && url && token) {
      sender = new Sender(journal, { url, token }, {
        taken: entry => { count.sent += 1; finish(entry.n) },
        refused: (entry, why) => { count.refused += 1; finish(entry.n, new Error(`the agent refused the record: ${why}`)) },
        trouble: why => {
          if (why && why !== trouble) node.warn(why)
          trouble = why
        }
      })
      // What an earlier run of the runtime left.
      sender.wake()
    }
    show()

    node.on('input', (msg, send, done) => {
      try {
        if (!journal) throw new Error(trouble)
        const line = JSON.stringify(record(msg, config))
        const bytes = Buffer.byteLength(line)
        if (bytes > MOST_RECORD_BYTES) throw new Error(`the record has ${bytes} bytes, more than ${MOST_RECORD_BYTES}`)
        while (!journal.fits(bytes)) {
          const [oldest] = journal.oldest(1, 1)
          if (!drops || !oldest) throw new Error(`the buffer is full (${journal.length} records wait): the message is not taken`)
          journal.forget(oldest.n)
          count.dropped += 1
          finish(oldest.n, new Error('dropped: the buffer was full and this record the oldest'))
        }
        open.set(journal.add(line), { msg, done })
        if (sender) sender.wake()
      } catch (e) {
        done(e)
      }
    })

    node.on('close', (removed, done) => {
      clearInterval(shower)
      if (sender) sender.stop()
      if (journal) {
        if (removed && journal.length > 0) RED.log.warn(`redforge out ${node.id} is gone; ${journal.length} records wait in ${folder}`)
        journal.close()
      }
      done()
    })
  }
  RED.nodes.registerType('redforge out', RedforgeOut)
}
module.exports.record = record
