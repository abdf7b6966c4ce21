//! Asks from outside whether something listens or answers.
use super::http;
use redforge_shared::desired::Probe;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(3);

/// Does the container pass its own probe?
pub async fn passes(address: IpAddr, probe: &Probe) -> bool {
    match probe {
        Probe::Tcp { port } => accepts(address, *port).await,
        Probe::Http { port, path } => {
            let answer = http::send(address, *port, hyper::Method::GET, path, &[], None).await;
            answer.is_ok_and(|r| (200..400).contains(&r.status().as_u16()))
        }
    }
}

/// Does the port accept a connection?
pub async fn accepts(address: IpAddr, port: u16) -> bool {
    let connect = TcpStream::connect(SocketAddr::new(address, port));
    tokio::time::timeout(PATIENCE, connect).await.is_ok_and(|c| c.is_ok())
}
