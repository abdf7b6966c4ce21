//! Facts about the machine, read from the kernel. Docker's versions are added by the wiring, which holds the runtime.
use redforge_shared::report::HostFacts;
use std::{fs, path::Path};

/// Measures the host; `state_dir` decides whose disk is meant. What cannot be read stays empty or 0.
pub fn measure(state_dir: &Path) -> HostFacts {
    let (disk_total_bytes, disk_free_bytes) = disk(state_dir);
    HostFacts {
        hostname: line("/proc/sys/kernel/hostname"),
        architecture: std::env::consts::ARCH.into(),
        kernel: line("/proc/sys/kernel/osrelease"),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        docker_version: String::new(),
        docker_api_version: String::new(),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        memory_total_bytes: memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        disk_free_bytes,
        disk_total_bytes,
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().chars().take(128).collect()
}

/// Total and free bytes for ordinary users.
fn disk(dir: &Path) -> (u64, u64) {
    rustix::fs::statvfs(dir).map_or((0, 0), |s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize))
}

fn memory_total(meminfo: &str) -> u64 {
    let kib =
        meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(memory_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16 << 20);
        assert_eq!(memory_total("nonsense"), 0);
    }

    #[test]
    fn this_machine_has_a_disk_and_a_name() {
        let facts = measure(Path::new("/"));
        assert!(facts.disk_total_bytes >= facts.disk_free_bytes && facts.disk_total_bytes > 0);
        assert!(!facts.hostname.is_empty() && facts.cpus > 0);
    }
}
