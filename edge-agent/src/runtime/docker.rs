//! Docker as a [`Runtime`], over its socket: the only room that knows bollard.
//!
//! The engine may be away at any time, at the first call too: it is connected lazily and every failure says whether the
//! same request may succeed later. It decides nothing about instances.
use crate::runtime::{
    Boxed, Cause, ContainerSpec, Done, EngineSeen, EngineVersion, File, HostSeen, ImageSeen, LogLine, LogStream, Place,
    Runtime, RuntimeError, Signal, VolumePurpose, labels, login::Login, meter::Meter, names::Names,
};
use bollard::{API_DEFAULT_VERSION, container::LogOutput, errors::Error, query_parameters as query};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use redforge_shared::ids::{Digest, HostId, Name};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

mod container;
mod ends;
mod files;
mod image;
mod lines;
mod network;
mod observe;
mod ports;

/// Seconds before a request of which nothing came back is given up; stopping a container may take most of it.
const REQUEST_TIMEOUT_S: u64 = 120;

/// The engine behind a socket.
#[derive(Clone, Debug)]
pub struct Docker {
    socket: Arc<PathBuf>,
    client: Arc<OnceLock<bollard::Docker>>,
    ends: ends::Ends,
}

impl Docker {
    /// The engine behind this socket; nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: Arc::new(socket.into()), client: Arc::new(OnceLock::new()), ends: ends::Ends::default() }
    }

    /// The client, with the API version settled at the first success. Nobody waits for another's attempt: the stream of
    /// events is not polled during a pass, and an attempt that it began would hold the pass up for ever.
    async fn client(&self) -> Done<&bollard::Docker> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let path = self.socket.to_string_lossy();
        let unreachable = |e: Error| RuntimeError::Unreachable(Box::new(e));
        let client = bollard::Docker::connect_with_unix(&path, REQUEST_TIMEOUT_S, API_DEFAULT_VERSION)
            .map_err(unreachable)?
            .negotiate_version()
            .await
            .map_err(unreachable)?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// What Docker says when the OCI runtime refuses a container, and what podman says.
const RUNTIME_REFUSES: [&str; 5] = [
    "OCI runtime create failed",
    "failed to create shim",
    "runc create failed",
    "OCI runtime attempted to invoke a command that was not found",
    "OCI permission denied",
];

/// What happens to a container; podman, which says `die` too, filters by words of its own.
const CHANGES: [&str; 8] = ["start", "die", "died", "oom", "destroy", "remove", "pause", "unpause"];

/// Puts the engine's answer into our words.
fn failed(act: &'static str, name: &str, error: Error) -> RuntimeError {
    let name = name.to_owned();
    let (status, message) = match &error {
        Error::DockerResponseServerError { status_code, message } => (*status_code, message.clone()),
        Error::DockerStreamError { error } => (500, error.clone()),
        Error::RequestTimeoutError => return RuntimeError::Failed { act, name, source: Box::new(error) },
        _ => return RuntimeError::Unreachable(Box::new(error)),
    };
    // The engine tells these apart in its text only; the texts are those of 20.10 to 29.
    let says = |text: &str| message.contains(text);
    if says("no space left on device") {
        return RuntimeError::DiskFull { act, name };
    }
    if says("port is already allocated") || says("address already in use") {
        return RuntimeError::PortTaken { name, port: ports::taken(&message) };
    }
    let source: Cause = Box::new(error);
    match status {
        404 => RuntimeError::NotFound { name },
        400 => RuntimeError::Refused { act, name, source },
        // What runc refuses (no such command, a bad mount) comes as 500.
        500 if RUNTIME_REFUSES.iter().any(|text| says(text)) => RuntimeError::Refused { act, name, source },
        _ => RuntimeError::Failed { act, name, source },
    }
}

/// An answer that lacks what it must have.
fn incomplete(act: &'static str, name: &str) -> RuntimeError {
    RuntimeError::Failed { act, name: name.into(), source: "the engine's answer is incomplete".into() }
}

/// Gone already is as good as done.
fn gone_is_fine(result: Done<()>) -> Done<()> {
    match result {
        Err(RuntimeError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn host_labels(names: &Names) -> HashMap<String, String> {
    HashMap::from([(labels::HOST.into(), names.host.to_string())])
}

fn is_ours(names: &Names, label: Option<&HashMap<String, String>>) -> bool {
    label.and_then(|l| l.get(labels::HOST)).is_some_and(|h| *h == names.host.to_string())
}

impl Runtime for Docker {
    fn version(&self) -> Boxed<'_, Done<EngineVersion>> {
        Box::pin(async {
            let client = self.client().await?;
            let version = client.version().await.map_err(|e| failed("ask the version of", "engine", e))?;
            let api = client.client_version();
            Ok(EngineVersion {
                engine: version.version.unwrap_or_default(),
                api: format!("{}.{}", api.major_version, api.minor_version),
            })
        })
    }

    fn survey(&self) -> Boxed<'_, Done<EngineSeen>> {
        Box::pin(async {
            let info = self.client().await?.info().await.map_err(|e| failed("survey", "engine", e))?;
            Ok(EngineSeen {
                root_dir: info.docker_root_dir.unwrap_or_default(),
                architecture: info.architecture.unwrap_or_default(),
                memory_total_bytes: info.mem_total.and_then(|m| u64::try_from(m).ok()).unwrap_or(0),
                routes: std::fs::read_to_string("/proc/net/route").unwrap_or_default(),
            })
        })
    }

    fn architectures<'a>(&'a self, reference: &'a str, login: Option<&'a Login>) -> Boxed<'a, Done<Vec<String>>> {
        Box::pin(async move {
            let asked = self.client().await?.inspect_registry_image(reference, login.map(image::credentials)).await;
            let platforms = asked.map_err(|e| failed("ask the registry for", reference, e))?.platforms;
            Ok(platforms.into_iter().filter_map(|p| p.architecture).filter(|a| !a.is_empty()).collect())
        })
    }

    fn observe<'a>(&'a self, names: &'a Names) -> Boxed<'a, Done<HostSeen>> {
        self.observe_host(names).boxed()
    }

    fn ensure_network<'a>(
        &'a self,
        names: &'a Names,
        name: &'a str,
        subnet: Option<&'a str>,
        internal: bool,
    ) -> Boxed<'a, Done<()>> {
        self.make_network(names, name, subnet, internal).boxed()
    }

    fn ensure_volume<'a>(
        &'a self,
        names: &'a Names,
        name: &'a str,
        instance: &'a Name,
        purpose: VolumePurpose,
    ) -> Boxed<'a, Done<()>> {
        self.make_volume(names, name, instance, purpose).boxed()
    }

    fn remove_volume<'a>(&'a self, names: &'a Names, name: &'a str) -> Boxed<'a, Done<()>> {
        self.drop_volume(names, name).boxed()
    }

    fn put_files<'a>(
        &'a self,
        names: &'a Names,
        image: &'a str,
        volume: &'a str,
        files: &'a [File],
    ) -> Boxed<'a, Done<()>> {
        self.carry_files(names, image, volume, files).boxed()
    }

    fn create_container<'a>(
        &'a self,
        names: &'a Names,
        place: Place<'a>,
        spec: &'a ContainerSpec,
    ) -> Boxed<'a, Done<()>> {
        self.make_container(names, place, spec).boxed()
    }

    fn name_container<'a>(&'a self, names: &'a Names, instance: &'a Name, container: &'a str) -> Boxed<'a, Done<()>> {
        self.join_under_name(names, instance, container).boxed()
    }

    fn connect_outside<'a>(&'a self, names: &'a Names, container: &'a str) -> Boxed<'a, Done<()>> {
        self.join_outside(names, container).boxed()
    }

    fn start_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>> {
        Box::pin(async move {
            let client = self.client().await?;
            match client.start_container(container, None::<query::StartContainerOptions>).await {
                // One that is paused cannot be started.
                Err(Error::DockerResponseServerError { status_code: 409, .. }) => {
                    client.unpause_container(container).await.map_err(|e| failed("unpause", container, e))
                }
                started => started.map_err(|e| failed("start", container, e)),
            }
        })
    }

    fn stop_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>> {
        Box::pin(async move {
            self.ends.stops(container);
            let stop = self.client().await?.stop_container(container, None::<query::StopContainerOptions>).await;
            gone_is_fine(stop.map_err(|e| failed("stop", container, e)))
        })
    }

    fn remove_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>> {
        Box::pin(async move {
            let options = query::RemoveContainerOptions { v: true, ..Default::default() };
            let removed = self.client().await?.remove_container(container, Some(options)).await;
            gone_is_fine(removed.map_err(|e| failed("remove", container, e)))
        })
    }

    fn signal<'a>(&'a self, container: &'a str, signal: Signal) -> Boxed<'a, Done<()>> {
        Box::pin(async move {
            let word = match signal {
                Signal::Hangup => "SIGHUP",
            };
            let options = query::KillContainerOptions { signal: word.into() };
            let killed = self.client().await?.kill_container(container, Some(options)).await;
            killed.map_err(|e| failed("signal", container, e))
        })
    }

    fn cpu_time_ns<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<u64>> {
        Box::pin(async move {
            // One shot: without it the engine waits for a second sample.
            let options = query::StatsOptions { stream: false, one_shot: true };
            let stats = self.client().await?.stats(container, Some(options)).next().await;
            let stats =
                stats.ok_or_else(|| incomplete("measure", container))?.map_err(|e| failed("measure", container, e))?;
            let used = stats.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage);
            used.ok_or_else(|| incomplete("measure", container))
        })
    }

    fn read_files<'a>(&'a self, container: &'a str, folder: &'a str) -> Boxed<'a, Done<BTreeMap<String, Vec<u8>>>> {
        self.fetch_files(container, folder).boxed()
    }

    fn digest_files<'a>(&'a self, container: &'a str, folder: &'a str) -> Boxed<'a, Done<BTreeMap<String, Digest>>> {
        self.digest_tree(container, folder).boxed()
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> Boxed<'a, Done<Option<ImageSeen>>> {
        self.local_image(reference).boxed()
    }

    fn resolve_image<'a>(
        &'a self,
        reference: &'a str,
        login: Option<&'a Login>,
        meter: &'a Meter,
    ) -> Boxed<'a, Done<ImageSeen>> {
        self.local_or_pulled(reference, login, meter).boxed()
    }

    fn load_image<'a>(&'a self, tar: &'a Path, reference: &'a str, meter: &'a Meter) -> Boxed<'a, Done<ImageSeen>> {
        self.load(tar, reference, meter).boxed()
    }

    fn tag_image<'a>(&'a self, image: &'a str, reference: &'a str) -> Boxed<'a, Done<()>> {
        self.tag(image, reference).boxed()
    }

    fn remove_image<'a>(&'a self, image: &'a str, reference: &'a str) -> Boxed<'a, Done<bool>> {
        self.drop_image(image, reference).boxed()
    }

    fn put_below<'a>(&'a self, container: &'a str, folder: &'a str, files: &'a [File]) -> Boxed<'a, Done<()>> {
        self.upload_below(container, folder, files).boxed()
    }

    fn last_lines(&self, container: &str, tail: u32, follow: bool) -> BoxStream<'static, Done<LogLine>> {
        self.tail_of(container, tail, follow)
    }

    fn logs(&self, container: &str, since_s: i64) -> BoxStream<'static, Done<LogLine>> {
        let (docker, container) = (self.clone(), container.to_owned());
        let options = query::LogsOptions {
            follow: true,
            stdout: true,
            stderr: true,
            since: i32::try_from(since_s).unwrap_or(0),
            until: 0,
            timestamps: true,
            tail: "all".into(),
        };
        let open = async move {
            let lines = docker.client().await?.logs(&container, Some(options)).boxed();
            Ok(lines.map(move |item| match item {
                Ok(output) => line(output).ok_or_else(|| incomplete("read the log of", &container)),
                Err(e) => Err(failed("read the log of", &container, e)),
            }))
        };
        stream::once(open).try_flatten().boxed()
    }

    fn events(&self, host: HostId) -> BoxStream<'static, ()> {
        let docker = self.clone();
        let label = format!("{}={host}", labels::HOST);
        let filters = HashMap::from([
            ("label".to_owned(), vec![label]),
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), CHANGES.map(str::to_owned).to_vec()),
        ]);
        let options = query::EventsOptions { filters: Some(filters), ..Default::default() };
        let open = async move {
            let client = docker.client().await.ok()?;
            let ends = docker.ends.clone();
            Some(hints(client.events(Some(options)).inspect_ok(move |event| ends.note(event))))
        };
        stream::once(open).filter_map(std::future::ready).flatten().boxed()
    }
}

/// Something happened, as often as something did; ends with the engine's stream.
fn hints<T>(events: impl Stream<Item = Result<T, Error>> + Send + 'static) -> impl Stream<Item = ()> + Send + 'static
where
    T: Send + 'static,
{
    events.take_while(|e| std::future::ready(e.is_ok())).map(|_| ())
}

/// Cuts the engine's timestamp off one frame of a log.
fn line(output: LogOutput) -> Option<LogLine> {
    let (stream, message) = match output {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (LogStream::Stdout, message)
        }
    };
    let space = message.iter().take(40).position(|b| *b == b' ')?;
    let at = OffsetDateTime::parse(std::str::from_utf8(&message[..space]).ok()?, &Rfc3339).ok()?;
    let bytes = message.slice(space + 1..);
    let partial = !bytes.ends_with(b"\n");
    let bytes = strip_line_end(bytes);
    Some(LogLine { at_ns: i64::try_from(at.unix_timestamp_nanos()).ok()?, stream, bytes, partial })
}

fn strip_line_end(bytes: Bytes) -> Bytes {
    let end = bytes.strip_suffix(b"\n").map_or(bytes.len(), |b| b.strip_suffix(b"\r").unwrap_or(b).len());
    bytes.slice(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_frames_lose_their_timestamp_and_line_end() {
        let parse = |text: &'static str| line(LogOutput::StdErr { message: Bytes::from_static(text.as_bytes()) });
        let whole = parse("2026-11-23T10:00:00.000000007Z a b\r\n").expect("a frame");
        assert_eq!((whole.at_ns % 1_000_000_000, &whole.bytes[..], whole.partial), (7, &b"a b"[..], false));
        assert_eq!(whole.stream, LogStream::Stderr);
        let part = parse("2026-11-23T10:00:00Z ").expect("an empty part");
        assert!(part.partial && part.bytes.is_empty());
        assert_eq!(parse("no time here\n"), None);
    }

    #[tokio::test]
    async fn an_absent_socket_is_unreachable_and_may_come() {
        let docker = Docker::new("/nonexistent/docker.sock");
        let error = docker.version().await.expect_err("there is no engine");
        assert!(matches!(error, RuntimeError::Unreachable(_)) && error.is_retryable(), "{error}");
    }

    /// An engine that never answers its first connection, and all others.
    async fn slow_first(listener: tokio::net::UnixListener) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut first = None;
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            if first.is_none() {
                first = Some(socket);
                continue;
            }
            let mut request = [0; 4096];
            assert_ne!(socket.read(&mut request).await.expect("a request"), 0);
            let body = r#"{"ApiVersion":"1.41","Version":"20.10"}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.expect("an answer");
        }
    }

    #[tokio::test]
    async fn events_that_nobody_polls_hold_up_no_request() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("docker.sock");
        let server = slow_first(tokio::net::UnixListener::bind(&path).expect("a socket"));
        let docker = Docker::new(&path);
        let mut events = docker.events(HostId(uuid::Uuid::nil()));
        // Long enough for its attempt to have begun; it never ends.
        let began = async {
            assert!(tokio::time::timeout(std::time::Duration::from_millis(200), events.next()).await.is_err());
            docker.version().await
        };
        let answered = tokio::select! {
            () = server => None,
            answered = tokio::time::timeout(std::time::Duration::from_secs(20), began) => Some(answered),
        };
        let version = answered.expect("the server never ends").expect("an answer in time").expect("a version");
        assert_eq!(version, EngineVersion { engine: "20.10".into(), api: "1.41".into() });
    }
}
