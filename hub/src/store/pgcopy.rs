//! PostgreSQL's binary COPY format, written by hand: the fastest way in, and one that never quotes.
//!
//! Knows bytes only; which column comes next is `records`' business.
use bytes::BufMut as _;
use time::{OffsetDateTime, macros::datetime};

/// PostgreSQL counts microseconds from here.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);

/// Rows of one COPY.
#[derive(Debug)]
pub(in crate::store) struct CopyBuffer {
    buf: Vec<u8>,
}

impl CopyBuffer {
    /// The header, and room for `capacity` bytes of rows and one more row.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut buf = Vec::with_capacity(capacity + (16 << 10));
        buf.put_slice(b"PGCOPY\n\xff\r\n\0");
        buf.put_i32(0); // flags
        buf.put_i32(0); // length of the header's extension
        Self { buf }
    }

    /// Begins a row of `columns` fields; exactly so many must follow.
    pub fn row(&mut self, columns: i16) {
        self.buf.put_i16(columns);
    }
    pub fn bigint(&mut self, v: i64) {
        self.buf.put_i32(8);
        self.buf.put_i64(v);
    }
    pub fn int(&mut self, v: i32) {
        self.buf.put_i32(4);
        self.buf.put_i32(v);
    }
    pub fn real(&mut self, v: f32) {
        self.buf.put_i32(4);
        self.buf.put_f32(v);
    }
    pub fn double(&mut self, v: f64) {
        self.buf.put_i32(8);
        self.buf.put_f64(v);
    }
    pub fn bool(&mut self, v: bool) {
        self.buf.put_i32(1);
        self.buf.put_u8(v.into());
    }
    pub fn time(&mut self, v: OffsetDateTime) {
        let micros = (v - EPOCH).whole_microseconds();
        // The domain's years fit well within 64 bits of microseconds.
        self.bigint(i64::try_from(micros).unwrap_or(i64::MAX - 1));
    }
    /// Bytes or text; PostgreSQL checks that text is UTF-8 without NUL.
    pub fn bytes(&mut self, v: &[u8]) {
        self.buf.put_i32(v.len() as i32);
        self.buf.put_slice(v);
    }
    pub fn opt_text(&mut self, v: Option<&str>) {
        match v {
            Some(v) => self.bytes(v.as_bytes()),
            None => self.buf.put_i32(-1),
        }
    }
    pub fn jsonb(&mut self, v: &str) {
        self.buf.put_i32(v.len() as i32 + 1);
        self.buf.put_u8(1); // version of the binary form
        self.buf.put_slice(v.as_bytes());
    }

    /// The trailer.
    pub fn finish(&mut self) {
        self.buf.put_i16(-1);
    }

    /// What is to be sent; `clear` when it was.
    pub fn filled(&self) -> &[u8] {
        &self.buf
    }
    pub fn len(&self) -> usize {
        self.buf.len()
    }
    pub fn clear(&mut self) {
        self.buf.clear();
    }
}
