//! Apache Tika's server: its configuration, and whether it answers.
//!
//! Written after the documents of Tika 3 (the image apache/tika, port 9998, `-c FILE`); no release of it has been run here.
use super::{CONFIG_PATH, Files, Rendered, Surroundings, http};
use crate::runtime::File;
use redforge_shared::{
    desired::{InstanceSpec, Tika},
    ids::Name,
};
use std::net::IpAddr;

/// Where it listens.
pub const PORT: u16 = 9998;
/// Memory of the parent process, which only watches the one that works.
const BESIDE_HEAP_BYTES: u64 = 192 << 20;

/// How others of the host reach it.
pub(super) fn env(instance: &Name) -> (String, String) {
    ("TIKA_URL".into(), format!("http://{instance}:{PORT}"))
}

pub(super) fn render(spec: &InstanceSpec, tika: &Tika, around: Surroundings<'_>, rendered: &mut Rendered) {
    let text = config(tika, spec.resources.memory_bytes);
    // The image's user is its own affair; nothing in here is secret.
    let file = File { name: "tika-config.xml".into(), bytes: text.into_bytes(), uid: 0, mode: 0o444 };
    let volume = around.names.config_volume(&spec.name, Files::hash(std::slice::from_ref(&file)));
    rendered.config = Some(Files { volume, path: CONFIG_PATH.into(), files: vec![file] });
    rendered.container.command = vec!["-c".into(), format!("{CONFIG_PATH}/tika-config.xml")];
    // A document in work is given up: flows ask again.
    rendered.container.stop_timeout_s = 20;
}

fn config(tika: &Tika, memory: Option<u64>) -> String {
    let timeout_ms = u64::from(tika.task_timeout_s) * 1000;
    let heap = memory.map_or(String::new(), |limit| {
        let heap_mib = limit.saturating_sub(BESIDE_HEAP_BYTES).max(limit / 2) >> 20;
        format!("\n      <forkedJvmArgs>\n        <arg>-Xmx{heap_mib}m</arg>\n      </forkedJvmArgs>")
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!-- Rendered by RedForge; changes are overwritten. -->\n\
         <properties>\n  <server>\n    <params>\n      \
         <port>{PORT}</port>\n      <host>0.0.0.0</host>\n      \
         <taskTimeoutMillis>{timeout_ms}</taskTimeoutMillis>\n      \
         <enableUnsecureFeatures>false</enableUnsecureFeatures>{heap}\n    \
         </params>\n  </server>\n</properties>\n"
    )
}

/// Does it answer as what it is? A proxy's or another server's page is no answer.
pub async fn answers(address: Option<IpAddr>) -> bool {
    match address {
        Some(address) => answers_on(address, PORT).await,
        None => false,
    }
}

async fn answers_on(address: IpAddr, port: u16) -> bool {
    let Ok(response) = http::send(address, port, hyper::Method::GET, "/version", &[], None).await else { return false };
    http::read("/version", response).await.is_ok_and(|body| is_version(&body))
}

/// What `GET /version` says: `Apache Tika 3.2.3`.
fn is_version(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"Apache Tika")
}

#[cfg(test)]
mod tests;
