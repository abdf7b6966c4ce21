//! Addresses and blocks of addresses as settings write them.
use std::net::{Ipv4Addr, SocketAddr};

pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr =
        text.parse().map_err(|_| format!("page.listen: '{text}' is neither ADDRESS:PORT nor off"))?;
    if addr.ip().is_loopback() { Ok(addr) } else { Err(format!("page.listen: {addr} is not a loopback address")) }
}

/// An IPv4 block that has room for a network of length `longest`.
pub(super) fn check_block(name: &str, text: &str, longest: u8) -> Result<(), String> {
    let bad = || format!("{name}: '{text}' is not an IPv4 block such as 10.231.64.0/18");
    let (addr, len) = text.split_once('/').ok_or_else(bad)?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| bad())?;
    let len: u8 = len.parse().map_err(|_| bad())?;
    if !(8..=longest).contains(&len) {
        return Err(format!("{name}: /{len} is not within /8 to /{longest}"));
    }
    let host_bits = u32::from(addr) & (u32::MAX >> len);
    if host_bits == 0 { Ok(()) } else { Err(format!("{name}: '{text}' has address bits behind its length")) }
}
