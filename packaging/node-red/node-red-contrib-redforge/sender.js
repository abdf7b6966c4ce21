// Hands what waits in a journal to the agent's gateway, oldest first, a batch at a time, until each record is taken or
// refused. Only 202 takes; 4xx names the record that is wrong, which is given back, and the rest goes on without it; for
// everything else it comes back later, at the latest when the agent said so.
'use strict'
const http = require('http')

const BATCH_RECORDS = 100
const BATCH_BYTES = 512 << 10
const ANSWER_MS = 30_000
const FIRST_PAUSE_MS = 250
const LONGEST_PAUSE_MS = 15_000
const MOST_ANSWER_BYTES = 64 << 10

class Sender {
  // on: taken(entry), refused(entry, why), trouble(text or null)
  constructor (journal, { url, token }, on) {
    Object.assign(this, { journal, url, token, on })
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    this.failures = 0
    this.stopped = false
    this.busy = false
    this.most = BATCH_RECORDS
  }

  // Something waits: goes to work unless it is at work, or pausing.
  wake () {
    if (this.busy || this.timer !== undefined || this.stopped || this.journal.length === 0) return
    this.busy = true
    this.#turn().finally(() => {
      this.busy = false
      if (this.pause > 0) {
        this.timer = setTimeout(() => { this.timer = undefined; this.wake() }, this.pause)
      } else setImmediate(() => this.wake())
    })
  }

  async #turn () {
    this.pause = 0
    const batch = this.journal.oldest(this.most, BATCH_BYTES)
    let answer
    try {
      answer = await this.#post(batch.map(e => e.line).join('\n'))
    } catch (e) {
      return this.#later(`the agent cannot be reached (${e.code || e.message})`)
    }
    if (this.stopped && answer.status !== 202) return
    if (answer.status === 202) {
      this.failures = 0
      this.most = Math.min(this.most * 2, BATCH_RECORDS)
      return this.#through(batch, e => this.on.taken(e))
    }
    const said = answer.problem.detail || `the agent answered ${answer.status}`
    if ([400, 413, 422].includes(answer.status)) {
      const at = answer.problem.index
      if (Number.isSafeInteger(at) && at >= 0 && at < batch.length) {
        // Those before it are sent without it, so that order holds.
        if (at > 0) { this.most = at; return }
        this.most = BATCH_RECORDS
        const why = answer.problem.field ? `${answer.problem.field}: ${said}` : said
        return this.#through([batch[0]], e => this.on.refused(e, why))
      }
      if (batch.length > 1) { this.most = Math.ceil(batch.length / 2); return }
      return this.#through(batch, e => this.on.refused(e, said))
    }
    this.#later(answer.status === 401 ? 'the agent does not know this instance\'s token' : said, answer.after)
  }

  #through (batch, each) {
    this.on.trouble(null)
    // On disk first: whoever hears of it may rely on it.
    this.journal.forget(batch[batch.length - 1].n)
    batch.forEach(each)
  }

  #later (why, afterSeconds) {
    this.failures += 1
    const grown = Math.min(FIRST_PAUSE_MS * 2 ** Math.min(this.failures - 1, 10), LONGEST_PAUSE_MS)
    const jittered = grown * (0.5 + Math.random() / 2)
    this.pause = Number.isFinite(afterSeconds) ? Math.max(afterSeconds * 1000, jittered) : jittered
    this.on.trouble(why)
  }

  #post (body) {
    return new Promise((resolve, reject) => {
      const headers = {
        authorization: `Bearer ${this.token}`,
        'content-type': 'application/x-ndjson',
        'content-length': Buffer.byteLength(body)
      }
      const request = http.request(this.url, { method: 'POST', headers, agent: this.agent, timeout: ANSWER_MS }, answer => {
        const parts = []
        let bytes = 0
        answer.on('data', part => { bytes += part.length; if (bytes <= MOST_ANSWER_BYTES) parts.push(part) })
        answer.on('error', reject)
        answer.on('end', () => {
          let problem = {}
          try { problem = JSON.parse(Buffer.concat(parts).toString()) || {} } catch { /* not ours to understand */ }
          const after = Number.parseFloat(answer.headers['retry-after'])
          resolve({ status: answer.statusCode, problem, after })
        })
      })
      this.request = request
      request.on('timeout', () => request.destroy(new Error('no answer in time')))
      request.on('error', reject)
      request.end(body)
    })
  }

  stop () {
    this.stopped = true
    clearTimeout(this.timer)
    if (this.request) this.request.destroy()
    this.agent.destroy()
  }
}

module.exports = { Sender }
