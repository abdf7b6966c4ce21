//! Docker alone: HTTP by hand over its socket, one connection, one request after the other.
use crate::p50_p99;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long a container may take until it answers.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often it is asked.
const ASK: Duration = Duration::from_millis(20);
/// How long a flow may take to answer one request.
const ANSWER: Duration = Duration::from_millis(100);

struct Engine(BufReader<UnixStream>);

impl Engine {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("{}: no engine", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let length = body.len();
        write!(
            self.0.get_mut(),
            "{method} /v1.41{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let (status, answer) = read_response(&mut self.0)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if status >= 300 {
            bail!("{method} {path}: {status} {answer}");
        }
        Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
    }
}

fn read_response(from: &mut impl std::io::BufRead) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).context("not an HTTP answer")?;
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        match header.split_once(':') {
            Some(("content-length", n)) => length = n.trim().parse()?,
            Some(("transfer-encoding", how)) => chunked = how.contains("chunked"),
            None if header.is_empty() => break,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        body.resize(length, 0);
        from.read_exact(&mut body)?;
        return Ok((status, body));
    }
    loop {
        line.clear();
        from.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16)?;
        let begin = body.len();
        body.resize(begin + size, 0);
        from.read_exact(&mut body[begin..])?;
        from.read_line(&mut line)?;
        if size == 0 {
            return Ok((status, body));
        }
    }
}

/// Milliseconds of: networks, volumes, all containers, each container of this label inspected, and the files that one of
/// them has mounted at this path read.
pub fn observe(socket: &Path, label: &str, path: &str, times: usize) -> anyhow::Result<Value> {
    let mut engine = Engine::connect(socket)?;
    let (key, value) = label.split_once('=').context("a label is key=value")?;
    let mut took = Vec::new();
    let (mut inspected, mut read) = (0, 0);
    for _ in 0..times {
        let begun = Instant::now();
        engine.call("GET", "/networks", None)?;
        engine.call("GET", "/volumes", None)?;
        let all = engine.call("GET", "/containers/json?all=1", None)?;
        let ours = all.as_array().into_iter().flatten().filter(|c| c["Labels"][key] == value);
        let ids: Vec<String> = ours.filter_map(|c| c["Id"].as_str().map(str::to_owned)).collect();
        (inspected, read) = (ids.len(), 0);
        for id in &ids {
            let seen = engine.call("GET", &format!("/containers/{id}/json"), None)?;
            if seen["Mounts"].as_array().into_iter().flatten().any(|m| m["Destination"] == path) {
                engine.call("GET", &format!("/containers/{id}/archive?path={path}"), None)?;
                read += 1;
            }
        }
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let (p50, p99) = p50_p99(took);
    Ok(json!({"p50_ms": p50, "p99_ms": p99, "containers": inspected, "read": read}))
}

/// Seconds from create to the first HTTP answer of what runs inside.
pub fn container(socket: &Path, image: &str, command: &[String], port: u16) -> anyhow::Result<Value> {
    let mut engine = Engine::connect(socket)?;
    let begun = Instant::now();
    let mut body = json!({"Image": image});
    if !command.is_empty() {
        body["Cmd"] = json!(command);
    }
    let made = engine.call("POST", "/containers/create", Some(&body))?;
    let id = made["Id"].as_str().context("the engine gave no id")?.to_owned();
    let answered = start_and_ask(&mut engine, &id, port, begun);
    engine.call("DELETE", &format!("/containers/{id}?force=1&v=1"), None)?;
    Ok(json!({"seconds": answered?.as_secs_f64()}))
}

/// Milliseconds of giving a bare Node-RED other flows: from the request to the new flow's first answer.
pub fn deploys(socket: &Path, image: &str, port: u16, times: usize) -> anyhow::Result<Value> {
    let mut engine = Engine::connect(socket)?;
    let made = engine.call("POST", "/containers/create", Some(&json!({"Image": image})))?;
    let id = made["Id"].as_str().context("the engine gave no id")?.to_owned();
    let took = start_and_ask(&mut engine, &id, port, Instant::now()).and_then(|_| {
        let address = address_of(&mut engine, &id, port)?;
        (0..=times).map(|n| deploy(address, n)).collect::<anyhow::Result<Vec<_>>>()
    });
    engine.call("DELETE", &format!("/containers/{id}?force=1&v=1"), None)?;
    // The first one makes what the others change.
    let (p50, p99) = p50_p99(took?.split_off(1));
    Ok(json!({"p50_ms": p50, "p99_ms": p99}))
}

fn deploy(address: SocketAddr, n: usize) -> anyhow::Result<f64> {
    let flows = json!([
        {"id": "tab", "type": "tab", "label": "bench"},
        {"id": "in", "type": "http in", "z": "tab", "url": "/version", "method": "get", "wires": [["text"]]},
        {"id": "text", "type": "template", "z": "tab", "field": "payload", "fieldType": "msg", "format": "handlebars",
         "syntax": "plain", "template": format!("version {n}."), "output": "str", "wires": [["out"]]},
        {"id": "out", "type": "http response", "z": "tab", "wires": []},
    ])
    .to_string();
    let length = flows.len();
    let begun = Instant::now();
    let post = format!(
        "POST /flows HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Node-RED-Deployment-Type: flows\r\nContent-Length: {length}\r\n\r\n{flows}"
    );
    let (status, answer) = exchange(address, &post, PATIENCE)?;
    if status >= 300 {
        bail!("POST /flows: {status} {}", String::from_utf8_lossy(&answer));
    }
    let wanted = format!("version {n}.");
    while begun.elapsed() < PATIENCE {
        let get = "GET /version HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
        // A request that met the flow as it was stopped is never answered.
        if exchange(address, get, ANSWER).is_ok_and(|(_, text)| text.starts_with(wanted.as_bytes())) {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    bail!("the flows that were deployed did not answer within {} s", PATIENCE.as_secs())
}

fn exchange(address: SocketAddr, request: &str, patience: Duration) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(request.as_bytes())?;
    read_response(&mut BufReader::new(stream))
}

fn address_of(engine: &mut Engine, id: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let seen = engine.call("GET", &format!("/containers/{id}/json"), None)?;
    let ip = seen["NetworkSettings"]["IPAddress"].as_str().unwrap_or_default();
    format!("{ip}:{port}").parse().context("the container has no address")
}

fn start_and_ask(engine: &mut Engine, id: &str, port: u16, begun: Instant) -> anyhow::Result<Duration> {
    engine.call("POST", &format!("/containers/{id}/start"), None)?;
    let address = address_of(engine, id, port)?;
    // Nobody sends: receiving is how to wait without sleeping.
    let (_never, wait) = mpsc::channel::<()>();
    while begun.elapsed() < PATIENCE {
        if ask(address).is_ok() {
            return Ok(begun.elapsed());
        }
        let _ = wait.recv_timeout(ASK);
    }
    bail!("the container did not answer within {} s", PATIENCE.as_secs())
}

fn ask(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut first = [0; 12];
    stream.read_exact(&mut first)?;
    Ok(())
}
