//! Ports that the agent listens on: held by it, or free for it.
use super::Finding;
use crate::{config::Config, page::StatusView};
use std::net::SocketAddr;
use tokio::net::TcpListener;

pub(super) async fn examine(config: &Config, view: Option<&StatusView>) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(addr) = config.page_listen {
        all.push(page(addr, view).await);
    }
    for warning in view.iter().flat_map(|v| &v.warnings).filter(|w| w.contains("gateway")) {
        all.push(Finding::fail("ports.gateway", warning.clone(), "ss -ltnp; gateway.port in the agent's settings"));
    }
    all
}

async fn page(addr: SocketAddr, view: Option<&StatusView>) -> Finding {
    const CHECK: &str = "ports.page";
    let next = format!("ss -ltnp 'sport = :{}' shows who has it; page.listen or port_base move it", addr.port());
    if let Some(view) = view {
        return match view.warnings.iter().find(|w| w.contains("status page")) {
            Some(warning) => Finding::fail(CHECK, warning.clone(), next),
            None => Finding::ok(CHECK, format!("the page is on http://{addr}/")),
        };
    }
    match TcpListener::bind(addr).await {
        Ok(_) => Finding::ok(CHECK, format!("{addr} is free for the page")),
        Err(e) => Finding::fail(CHECK, format!("{addr} is taken: {e}"), next),
    }
}
