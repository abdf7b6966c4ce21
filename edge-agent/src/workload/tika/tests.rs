//! The configuration, and what `GET /version` may meet: replies as Tika's documents and its server's library have them, byte
//! for byte, from a socket. No Tika has been run.
use super::*;
use std::net::Ipv4Addr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

/// A server that answers each request with these bytes, or with silence, while the value lives.
async fn replaying(reply: Option<&'static [u8]>) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut at_work = JoinSet::new();
    at_work.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let n = socket.read(&mut request).await.expect("a request");
            assert!(request[..n].starts_with(b"GET /version HTTP/1.1\r\n"), "{:?}", &request[..n]);
            match reply {
                // Whoever asks may have gone.
                Some(reply) => drop(socket.write_all(reply).await),
                None => std::future::pending().await,
            }
        }
    });
    (port, at_work)
}

#[tokio::test]
async fn it_works_when_its_version_comes_and_in_no_other_state() {
    let at = |port| answers_on(Ipv4Addr::LOCALHOST.into(), port);
    let good: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\nContent-Length: 18\r\n\
          Server: Jetty(11.0.25)\r\n\r\nApache Tika 3.2.3\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nServer: Jetty(11.0.25)\r\n\r\n\
          11\r\nApache Tika 3.2.3\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nApache Tika 2.9.2",
    ];
    for reply in good {
        let (port, _server) = replaying(Some(reply)).await;
        assert!(at(port).await, "{}", String::from_utf8_lossy(reply));
    }
    let bad: [&[u8]; 6] = [
        // Its parent is there, and the process that works is being started again.
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nServer: Jetty(11.0.25)\r\n\r\n",
        b"HTTP/1.1 500 Server Error\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\r\nApache Tika 3.2.3",
        // Its page for people; a proxy's; half an answer; none.
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 60\r\n\r\n\
          <html><head><title>Welcome to the Apache Tika 3.2.3 Server</",
        b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\nApache",
        b"",
    ];
    for reply in bad {
        let (port, _server) = replaying(Some(reply)).await;
        assert!(!at(port).await, "{}", String::from_utf8_lossy(reply));
    }
    // It hangs; it is not there.
    let (port, server) = replaying(None).await;
    assert!(!at(port).await);
    drop(server);
    let closed =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port").local_addr().expect("one").port();
    assert!(!at(closed).await);
    assert!(!answers(None).await);
}

#[test]
fn the_configuration_is_written_line_by_line() {
    insta::assert_snapshot!(config(&Tika { task_timeout_s: 60 }, Some(1 << 30)));
    assert!(!config(&Tika::default(), None).contains("forkedJvmArgs"));
}

#[test]
fn only_tika_counts_as_tika() {
    for good in [&b"Apache Tika 3.2.3"[..], b"Apache Tika 2.9.2\n"] {
        assert!(is_version(good));
    }
    for bad in [&b""[..], b"<html>Apache Tika</html>", b"nginx", b"{\"version\":\"Apache Tika\"}"] {
        assert!(!is_version(bad), "{bad:?}");
    }
}
