//! The limits of both doors, from outside: each is reached by a client that does what no good client does, and while it
//! does so another operator is served.
use redforge_shared::{
    tls::{HUB_NAME, Trust, client_config},
    wire::pb,
};
use redforge_tests::{
    hub::{TestHub, Wishes},
    operator::{Operator, channel, roots},
    wait::{eventually_within, when},
};
use rustls_pki_types::ServerName;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A client that writes HTTP/2 frames by hand, so that it can break every rule.
struct Raw {
    tls: TlsStream<TcpStream>,
    got: Vec<u8>,
}

/// One frame.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn tls(hub: &TestHub, port: u16) -> TlsStream<TcpStream> {
    redforge_shared::daemon::install_crypto();
    let mut config =
        client_config(Trust::Roots(roots(&hub.root_pem())), None, time::OffsetDateTime::UNIX_EPOCH).expect("good");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("the door is open");
    let name = ServerName::try_from(HUB_NAME).expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake")
}

impl Raw {
    async fn connect(hub: &TestHub, port: u16) -> Self {
        let mut raw = Self { tls: tls(hub, port).await, got: Vec::new() };
        raw.tls.write_all(PREFACE).await.expect("open");
        raw.send(SETTINGS, 0, 0, &[]).await.expect("open");
        raw
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.tls.write_all(&frame).await
    }

    /// Opens a stream with a gRPC call that stays open: its message never comes.
    async fn open(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) -> std::io::Result<()> {
        let mut block = Vec::new();
        let fixed = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", "hub"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        for (name, value) in fixed.iter().chain(more) {
            // Literal, never indexed, no Huffman.
            block.push(0x10);
            for text in [name, value] {
                integer(&mut block, text.len());
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, 0x4, stream, &block).await
    }

    /// The next frame, or nothing when the door closed the connection.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if self.got.len() >= 9 {
                let len = usize::from(self.got[0]) << 16 | usize::from(self.got[1]) << 8 | usize::from(self.got[2]);
                if self.got.len() >= 9 + len {
                    let rest = self.got.split_off(9 + len);
                    let frame = std::mem::replace(&mut self.got, rest);
                    let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) & 0x7fff_ffff;
                    return Some(Frame { kind: frame[3], flags: frame[4], stream, payload: frame[9..].to_vec() });
                }
            }
            let mut piece = vec![0; 16 * 1024];
            match self.tls.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.got.extend(&piece[..n]),
            }
        }
    }

    /// Reads until the door closes; gives what came and how long it took. Pings are answered if `polite`.
    async fn until_closed(&mut self, within: Duration, polite: bool) -> (Vec<Frame>, Duration) {
        let began = Instant::now();
        let mut frames = Vec::new();
        let closed = async {
            while let Some(frame) = self.frame().await {
                if polite && frame.kind == PING && frame.flags & 1 == 0 {
                    drop(self.send(PING, 1, 0, &frame.payload).await);
                }
                frames.push(frame);
            }
        };
        tokio::time::timeout(within, closed).await.unwrap_or_else(|_| panic!("still open after {within:?}"));
        (frames, began.elapsed())
    }
}

/// An HPACK integer of 7 bits.
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
}

async fn serves(hub: &TestHub) {
    let mut operator = hub.operator().await;
    operator.admin.list_sites(pb::ListSitesRequest::default()).await.expect("another operator is served");
}

fn ports(hub: &TestHub) -> [(u16, &'static str); 2] {
    [(hub.operators_port, "/redforge.v1.Admin/PushFlowSet"), (hub.agents_port, "/redforge.v1.Enrollment/Enroll")]
}

#[tokio::test]
async fn ten_thousand_streams_on_one_connection_are_refused_beyond_a_hundred() {
    let hub = TestHub::start().await;
    let memory = || hub_rss_kib(&hub);
    let before = memory();
    for (port, path) in ports(&hub) {
        let mut raw = Raw::connect(&hub, port).await;
        let told = loop {
            let frame = raw.frame().await.expect("open");
            if frame.kind == SETTINGS && frame.flags & 1 == 0 {
                break frame.payload;
            }
        };
        let limit = |id: u16| {
            told.chunks_exact(6)
                .find(|s| u16::from_be_bytes([s[0], s[1]]) == id)
                .map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
        };
        assert_eq!((limit(3), limit(6)), (Some(100), Some(16 * 1024)), "streams and header list on {port}");
        raw.send(SETTINGS, 1, 0, &[]).await.expect("open");
        let authorization = format!("Bearer {}", hub.token());
        let mut refused = 0;
        let mut ended = None;
        for n in 0..10_000_u32 {
            if raw.open(2 * n + 1, path, &[("authorization", &authorization)]).await.is_err() {
                break;
            }
            // What the door says is read as it comes, so that nothing is held up on this side.
            while let Ok(frame) = tokio::time::timeout(Duration::ZERO, raw.frame()).await {
                match frame {
                    Some(f) if f.kind == RST_STREAM => refused += 1,
                    Some(f) if f.kind == GOAWAY => ended = Some(f.payload),
                    Some(_) => {}
                    None => break,
                }
            }
            if ended.is_some() {
                break;
            }
        }
        assert!(refused > 0 || ended.is_some(), "10,000 open streams were taken on {port}");
        serves(&hub).await;
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 * 1024, "the hub grew by {grown} KiB");
}

fn hub_rss_kib(hub: &TestHub) -> u64 {
    let pid = hub.process.as_ref().expect("it runs").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once_end_the_connection() {
    let hub = TestHub::start().await;
    for (port, path) in ports(&hub) {
        let mut raw = Raw::connect(&hub, port).await;
        let mut sent = 0;
        for n in 0..20_000_u32 {
            let opened = raw.open(2 * n + 1, path, &[]).await;
            if opened.is_err() || raw.send(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()).await.is_err() {
                break;
            }
            sent = n;
        }
        let (frames, _) = raw.until_closed(Duration::from_secs(30), true).await;
        let goaway = frames.iter().any(|f| f.kind == GOAWAY);
        assert!(goaway || sent < 19_999, "20,000 resets were taken on {port}");
        serves(&hub).await;
    }
}

/// Is the status of this header block 431 (static name 8, value as Huffman code or as it is)?
fn says_431(block: &[u8]) -> bool {
    let values: [&[u8]; 2] = [&[0x83, 0x69, 0x90, 0xff], b"\x03431"];
    block.first().is_some_and(|b| [0x08, 0x18, 0x48].contains(b)) && values.iter().any(|v| block[1..].starts_with(v))
}

/// A call with two headers of this value; the header block of its answer, none if the door ended stream or connection.
async fn answer_to_headers(hub: &TestHub, port: u16, path: &str, value: &str) -> Option<Vec<u8>> {
    let mut raw = Raw::connect(hub, port).await;
    let mut block = Vec::new();
    let fixed = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "hub")];
    let call = [("content-type", "application/grpc"), ("te", "trailers"), ("a", value), ("b", value)];
    for (name, value) in fixed.into_iter().chain(call) {
        block.push(0x10);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    // A frame holds 16,384 bytes; what is more comes in a CONTINUATION.
    let (first, rest) = block.split_at(block.len().min(16_000));
    let (end_stream, end_headers) = (0x1, if rest.is_empty() { 0x4 } else { 0 });
    raw.send(HEADERS, end_stream | end_headers, 1, first).await.expect("open");
    if !rest.is_empty() {
        raw.send(9, 0x4, 1, rest).await.expect("open");
    }
    let answer = async {
        loop {
            match raw.frame().await {
                Some(f) if f.kind == HEADERS && f.stream == 1 => return Some(f.payload),
                Some(f) if f.kind != GOAWAY && f.kind != RST_STREAM => {}
                _ => return None,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), answer).await.expect("an answer in time")
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let hub = TestHub::start().await;
    for (port, path) in ports(&hub) {
        // The same call with little in its headers is answered as a call: what 431 means is what the size did.
        let small = answer_to_headers(&hub, port, path, &"x".repeat(90)).await;
        assert!(small.as_deref().is_some_and(|block| !says_431(block)), "{small:02x?}");
        let large = answer_to_headers(&hub, port, path, &"x".repeat(9_000)).await;
        assert!(large.as_deref().is_none_or(says_431), "{large:02x?}");
        serves(&hub).await;
    }
}

#[tokio::test]
async fn a_message_of_five_megabytes_is_refused_by_both_doors() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    let request = pb::ApplyRequest { manifests: "#".repeat(5 << 20), ..Default::default() };
    let refusal = operator.admin.apply(request).await.expect_err("must be refused");
    assert_eq!(refusal.code(), tonic::Code::OutOfRange, "{refusal:?}");
    let config =
        client_config(Trust::Roots(roots(&hub.root_pem())), None, time::OffsetDateTime::UNIX_EPOCH).expect("good");
    let door = channel(hub.agents_port, config).await.expect("the agents' door is open");
    let mut client = pb::enrollment_client::EnrollmentClient::new(door);
    let request = pb::EnrollRequest { csr: vec![0; 5 << 20].into(), ..Default::default() };
    let refusal = client.enroll(request).await.expect_err("must be refused");
    assert_eq!(refusal.code(), tonic::Code::OutOfRange, "{refusal:?}");
    serves(&hub).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut_and_so_is_a_connection_that_asks_nothing() {
    let hub = TestHub::start().await;
    let doors = [hub.operators_port, hub.agents_port];
    let mut waiting = tokio::task::JoinSet::new();
    for port in doors {
        waiting.spawn(async move {
            let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("the door is open");
            // The beginning of a ClientHello, and then nothing.
            tcp.write_all(&[0x16, 3, 1, 2, 0]).await.expect("open");
            let began = Instant::now();
            let mut rest = [0; 64];
            let closed = tokio::time::timeout(Duration::from_secs(60), tcp.read(&mut rest)).await;
            assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{port}: {closed:?}");
            ("handshake", began.elapsed())
        });
        let mut silent = tls(&hub, port).await;
        waiting.spawn(async move {
            let began = Instant::now();
            let mut rest = [0; 64];
            // The door says its own settings first.
            let closing = async { while !matches!(silent.read(&mut rest).await, Ok(0) | Err(_)) {} };
            assert!(tokio::time::timeout(Duration::from_secs(150), closing).await.is_ok(), "{port} stays open");
            ("silence", began.elapsed())
        });
        // One that speaks HTTP/2, answers pings, and has no call open.
        let mut idle = Raw::connect(&hub, port).await;
        waiting.spawn(async move {
            let began = Instant::now();
            idle.until_closed(Duration::from_secs(150), true).await;
            ("idle", began.elapsed())
        });
    }
    while let Some(ended) = waiting.join_next().await {
        let (what, after) = ended.expect("it does not panic");
        let most = if what == "handshake" { 30 } else { 120 };
        assert!(after < Duration::from_secs(most), "{what} was cut after {after:?}");
    }
    serves(&hub).await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_let_go() {
    let hub = TestHub::start().await;
    let mut raw = Raw::connect(&hub, hub.operators_port).await;
    // An open call keeps the connection from being idle.
    raw.open(1, "/grpc.health.v1.Health/Watch", &[]).await.expect("open");
    raw.send(DATA, 1, 1, &[0, 0, 0, 0, 0]).await.expect("open");
    let (frames, after) = raw.until_closed(Duration::from_secs(90), false).await;
    assert!(frames.iter().any(|f| f.kind == PING && f.flags & 1 == 0), "no ping came");
    assert!(frames.iter().any(|f| f.kind == HEADERS && f.stream == 1), "the call was not open: {frames:?}");
    assert!(after < Duration::from_secs(60), "{after:?}");
}

fn was_never_sent(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(e) = cause {
        if e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = e.source();
    }
    false
}

#[tokio::test]
async fn a_connection_ends_in_good_order_at_its_age() {
    let mut hub = TestHub::prepare(Wishes::default());
    hub.env = vec![
        ("REDFORGE_HUB__OPERATORS__CONNECTION_AGE_S".into(), "5".into()),
        ("REDFORGE_HUB__SESSION__CONNECTION_AGE_S".into(), "5".into()),
    ];
    hub.up().await;
    for port in [hub.operators_port, hub.agents_port] {
        let mut raw = Raw::connect(&hub, port).await;
        let (frames, after) = raw.until_closed(Duration::from_secs(60), true).await;
        let goaway = frames.iter().rev().find(|f| f.kind == GOAWAY).expect("a goodbye");
        assert_eq!(goaway.payload[4..8], [0; 4], "not in good order: {goaway:?}");
        assert!((Duration::from_secs(4)..Duration::from_secs(30)).contains(&after), "{after:?}");
    }
    // A client that dials again by itself notices nothing, but that a call which was still in its own hands when the
    // connection ended was never sent: such a one is asked again.
    let mut operator = Operator::connect(hub.operators_port, &hub.root_pem(), &hub.token()).await;
    let began = Instant::now();
    eventually_within(Duration::from_secs(60), "calls over more than one age", async || {
        if let Err(status) = operator.admin.list_sites(pb::ListSitesRequest::default()).await {
            assert!(was_never_sent(&status), "every call that was sent is answered: {status:?}");
        }
        when(began.elapsed() > Duration::from_secs(7), "young")
    })
    .await;
}
