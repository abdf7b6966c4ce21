// What waits to be sent, on disk: a line for each record in `waiting.ndjson`, and in `done` the number of the last one that
// was taken or refused. A record is written before anything else is done with it, so that an end of the runtime loses none;
// the number is written after the answer, so that a record may be sent again and its key makes that harmless.
//
// Written at once, synced to the disk within a quarter of a second: an end of the process loses nothing, a cut of the power
// at most that quarter. It knows neither Node-RED nor the network.
'use strict'
const fs = require('fs')
const path = require('path')

const SYNC_MS = 250
// The file is made anew when at least this much of it is done with.
const SPENT_BYTES = 1 << 20
// Digits of the longest number.
const WIDTH = 20
// What a disk without room, or a quota, is called.
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

class Journal {
  // folder: where it lies, made if it is missing. Limits: how many records and bytes may wait.
  constructor (folder, limits) {
    this.limits = limits
    fs.mkdirSync(folder, { recursive: true, mode: 0o700 })
    this.waitingPath = path.join(folder, 'waiting.ndjson')
    this.donePath = path.join(folder, 'done')
    this.queue = [] // {n, line, bytes}, oldest first
    this.bytes = 0
    this.last = 0 // number of the newest record
    this.spent = 0 // bytes of the file that are done with
    this.#load()
    this.dirty = false
    this.timer = setInterval(() => this.sync(), SYNC_MS)
    this.timer.unref()
  }

  #load () {
    let done = 0
    try { done = Number.parseInt(fs.readFileSync(this.donePath, 'utf8'), 10) || 0 } catch (e) { if (e.code !== 'ENOENT') throw e }
    let text = ''
    try { text = fs.readFileSync(this.waitingPath, 'utf8') } catch (e) { if (e.code !== 'ENOENT') throw e }
    this.last = done
    for (const line of text.split('\n')) {
      let entry
      // A torn last line was never acknowledged to anybody.
      try { entry = JSON.parse(line) } catch { continue }
      if (!Number.isSafeInteger(entry.n) || typeof entry.r !== 'object') continue
      this.last = Math.max(this.last, entry.n)
      if (entry.n > done) this.#push(entry.n, JSON.stringify(entry.r))
    }
    this.#rewrite()
  }

  #push (n, line) {
    const bytes = Buffer.byteLength(line)
    this.queue.push({ n, line, bytes })
    this.bytes += bytes
  }

  // Both files anew, each whole or not at all. Where the first cannot be written, the old one stays in use.
  #rewrite () {
    const text = this.queue.map(e => `{"n":${e.n},"r":${e.line}}\n`).join('')
    replace(this.waitingPath, text)
    this.#open('file', this.waitingPath, 'a')
    this.end = Buffer.byteLength(text)
    this.spent = 0
    // As wide as every number, so that it is written over in place where no room is left.
    replace(this.donePath, String(this.queue.length > 0 ? this.queue[0].n - 1 : this.last).padEnd(WIDTH))
    this.#open('done', this.donePath, 'r+')
  }

  #open (which, at, flags) {
    const before = this[which]
    this[which] = fs.openSync(at, flags)
    if (before !== undefined) fs.closeSync(before)
  }

  get length () { return this.queue.length }

  // Is there room for a record of so many bytes?
  fits (bytes) {
    return this.queue.length < this.limits.records && this.bytes + bytes <= this.limits.bytes
  }

  // Takes a record, as JSON text; gives its number.
  add (line) {
    const n = this.last + 1
    const text = Buffer.from(`{"n":${n},"r":${line}}\n`)
    try {
      if (fs.fstatSync(this.file).size > this.end) fs.ftruncateSync(this.file, this.end)
      // A disk that fills up takes a part of it and says nothing.
      fs.writeFileSync(this.file, text)
    } catch (e) {
      // The next line must not stand behind a torn one; where even this fails, the next record tries it first.
      try { fs.ftruncateSync(this.file, this.end) } catch { /* as above */ }
      throw e
    }
    this.end += text.length
    this.last = n
    this.dirty = true
    this.#push(n, line)
    return n
  }

  // The oldest records: at most so many, and so many bytes.
  oldest (records, bytes) {
    const batch = []
    let sum = 0
    for (const entry of this.queue) {
      sum += entry.bytes + 1
      if (batch.length === records || (batch.length > 0 && sum > bytes)) break
      batch.push(entry)
    }
    return batch
  }

  // The oldest ones, up to this number, are done with.
  forget (n) {
    while (this.queue.length > 0 && this.queue[0].n <= n) {
      const { bytes } = this.queue.shift()
      this.bytes -= bytes
      this.spent += bytes
    }
    this.dirty = true
    // Where it cannot be written, those records are sent again after an end of the runtime, and their keys make that harmless.
    try {
      // As long as every number before it, so that no digit of an older one stays.
      fs.writeSync(this.done, String(n).padEnd(WIDTH), 0)
      // Never more is written anew than was done with meanwhile.
      if (this.spent > Math.max(this.queue.length === 0 ? SPENT_BYTES / 16 : SPENT_BYTES, this.bytes)) this.#rewrite()
    } catch (e) {
      if (!FULL.has(e.code)) throw e
    }
  }

  sync () {
    if (!this.dirty) return
    this.dirty = false
    // Beside the flows: nobody waits for it.
    fs.fdatasync(this.file, () => {})
    fs.fdatasync(this.done, () => {})
  }

  close () {
    clearInterval(this.timer)
    if (this.file === undefined) return
    for (const file of [this.file, this.done]) {
      try { fs.fdatasyncSync(file) } catch { /* the disk is full or gone: what is written stays written */ }
      fs.closeSync(file)
    }
    this.file = undefined
  }
}

function replace (file, text) {
  const part = `${file}.part`
  const fd = fs.openSync(part, 'w', 0o600)
  try {
    fs.writeFileSync(fd, text)
    fs.fdatasyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
  fs.renameSync(part, file)
}

module.exports = { Journal }
