//! Somebody who wants an answer every 50 ms, and who knows for how long there was none.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often it asks, and how long it waits for an answer.
const EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Seen {
    answered: Option<Instant>,
    longest: Duration,
    text: String,
}

/// Asks until it is dropped.
pub struct Visitor {
    seen: Arc<Mutex<Seen>>,
    stop: Option<Sender<()>>,
    asking: Option<JoinHandle<()>>,
}

impl Visitor {
    /// Asks at this port of the machine, where a server says a line to everybody who connects.
    pub fn at(port: u16) -> Self {
        Self::who(move || ask(port, ""))
    }

    /// Asks over HTTP for this path; what counts is a body.
    pub fn of_page(port: u16, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n");
        Self::who(move || {
            let answer = ask(port, &request)?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
        })
    }

    fn who(ask: impl Fn() -> Option<String> + Send + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, ended) = mpsc::channel::<()>();
        let s = seen.clone();
        let asking = std::thread::spawn(move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let text = ask();
                let now = Instant::now();
                let mut seen = s.lock().expect("nobody panics while holding it");
                // An outage ends with the next answer; until then it grows.
                let gap = seen.answered.map_or(Duration::ZERO, |last| now - last);
                seen.longest = seen.longest.max(gap);
                if let Some(text) = text {
                    (seen.answered, seen.text) = (Some(now), text);
                }
            }
        });
        Self { seen, stop: Some(stop), asking: Some(asking) }
    }

    /// The last answer.
    pub fn said(&self) -> String {
        self.seen.lock().expect("nobody panics while holding it").text.clone()
    }

    /// The longest time without an answer since the last call of this.
    pub fn longest_outage(&self) -> Duration {
        std::mem::take(&mut self.seen.lock().expect("nobody panics while holding it").longest)
    }
}

/// Says this, if it is anything, and gives back what comes: all of it after a request, the first piece else.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut said = vec![0; 64];
    let n = if request.is_empty() {
        stream.read(&mut said).ok()?
    } else {
        stream.write_all(request.as_bytes()).ok()?;
        said.clear();
        stream.take(4096).read_to_end(&mut said).ok()?
    };
    let text = String::from_utf8_lossy(&said[..n]).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(asking) = self.asking.take() {
            drop(asking.join());
        }
    }
}
