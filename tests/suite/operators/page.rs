//! The page over the real door, as a browser reads it: the link that `dev` prints, a session that outlives a restart of the
//! hub, and the stream on which a cut and its end can be watched.
use redforge_shared::tls::{HUB_NAME, Trust, client_config};
use redforge_tests::{agent::TestAgent, hub::TestHub, operator::roots, wait::DEADLINE};
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// A connection with one HTTP/1.1 request on it.
struct Asked {
    tls: TlsStream<TcpStream>,
    got: String,
}

impl Asked {
    async fn get(hub: &TestHub, path: &str, cookie: &str) -> Self {
        redforge_shared::daemon::install_crypto();
        let trust = Trust::Roots(roots(&hub.root_pem()));
        let mut config = client_config(trust, None, time::OffsetDateTime::UNIX_EPOCH).expect("the root is good");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(("127.0.0.1", hub.operators_port)).await.expect("the door is open");
        let name = ServerName::try_from(HUB_NAME).expect("a name");
        let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake");
        let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.expect("open");
        Self { tls, got: String::new() }
    }

    /// Reads on until the answer so far satisfies `holds`, or ends.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&str) -> bool) -> &str {
        let reading = async {
            let mut piece = vec![0; 16 * 1024];
            while !holds(&self.got) {
                match self.tls.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => self.got.push_str(&String::from_utf8_lossy(&piece[..n])),
                }
            }
        };
        let late = tokio::time::timeout(DEADLINE, reading).await.is_err();
        let tail = self.got.len().saturating_sub(2000);
        assert!(!late, "not seen: {what}; last: {}", &self.got[self.got.ceil_char_boundary(tail)..]);
        &self.got
    }

    async fn all(mut self) -> String {
        self.until("the end", |_| false).await;
        self.got
    }
}

/// The page's parts of the last event that is complete.
fn last_parts(stream: &str) -> Value {
    let data = stream.rsplit("data: ").find_map(|piece| serde_json::from_str(piece.split("\n\n").next()?).ok());
    data.unwrap_or_default()
}

fn hosts(stream: &str) -> String {
    last_parts(stream)["hosts"].as_str().unwrap_or_default().to_owned()
}

async fn log_in(hub: &mut TestHub) -> String {
    let line = hub.process.as_mut().expect("it runs").line("login ", DEADLINE).await;
    let link = line.trim_start_matches("login ").to_owned();
    assert!(!link.contains(&hub.token()), "the link holds the token itself");
    let path = link.split_once("/login").map(|(_, rest)| format!("/login{rest}")).expect("a login link");
    let answer = Asked::get(hub, &path, "").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    let cookie = answer.lines().find_map(|l| l.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
    for word in ["HttpOnly", "Secure", "SameSite=Lax", "Max-Age="] {
        assert!(cookie.contains(word), "{cookie}");
    }
    cookie.split(';').next().expect("its value").to_owned()
}

/// The page of a hub that has just started, as a browser without scripts gets it.
pub async fn document(hub: &mut TestHub) -> String {
    let cookie = log_in(hub).await;
    Asked::get(hub, "/", &cookie).await.all().await
}

#[tokio::test]
async fn a_cut_is_watched_on_the_page_and_nothing_old_is_green() {
    let mut hub = TestHub::start().await;
    let cookie = log_in(&mut hub).await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut live = Asked::get(&hub, "/live", &cookie).await;
    let head = live.until("the stream begins", |got| got.contains("data: ")).await;
    assert!(head.contains("text/event-stream"), "{head}");
    live.until("the host is Online", |got| hosts(got).contains("Online")).await;
    agent.kill9();
    live.until("it turns Stale", |got| hosts(got).contains("Stale")).await;
    assert!(!hosts(&live.got).contains("chip good"), "stale is green: {}", hosts(&live.got));
    live.until("it turns Offline", |got| hosts(got).contains("Offline")).await;
    let row = hosts(&live.got);
    assert!(!row.contains("chip good") && row.contains("unknown, was") && row.contains(" ago"), "{row}");
    agent.up().await;
    live.until("it comes back", |got| hosts(got).contains("Online")).await;
    // The hub goes away and comes back: the same login goes on.
    hub.stop().await;
    live.until("the stream ends with the hub", |_| false).await;
    hub.up().await;
    let page = Asked::get(&hub, "/", &cookie).await.all().await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("press-1"), "{page}");
    let stranger = Asked::get(&hub, "/", "redforge_session=AAAA").await.all().await;
    assert!(stranger.starts_with("HTTP/1.1 401") && !stranger.contains("press-1"), "{stranger}");
}

#[tokio::test]
async fn what_the_page_loads_is_its_own() {
    let mut hub = TestHub::start().await;
    let cookie = log_in(&mut hub).await;
    let page = Asked::get(&hub, "/", &cookie).await.all().await;
    let lower = page.to_lowercase();
    for header in ["content-security-policy: default-src 'none'", "x-frame-options: deny", "cache-control: no-store"] {
        assert!(lower.contains(header), "{header} is missing: {page}");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script>"), "{page}");
    for path in page.split("=\"/static/").skip(1).filter_map(|p| p.split('"').next()) {
        let file = Asked::get(&hub, &format!("/static/{path}"), "").await.all().await;
        assert!(file.starts_with("HTTP/1.1 200") && !file.contains("//cdn") && !file.contains("https://"), "{path}");
    }
}
