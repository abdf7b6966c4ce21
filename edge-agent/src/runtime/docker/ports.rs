//! Which port is taken, out of the engine's words: it says so nowhere else.

/// `8080/tcp` out of what the engine says of a port that it cannot publish; none: it does not say.
pub fn taken(message: &str) -> Option<String> {
    // Addresses in brackets have colons of their own.
    let mut words = String::new();
    let mut depth = 0_usize;
    for c in message.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => words.push(c),
            _ => {}
        }
    }
    let numbers = words.split(':').skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let ends = rest.chars().nth(digits.len()).is_none_or(|c| c.is_whitespace() || c == '/');
        ends.then(|| digits.parse::<u16>().ok()).flatten()
    });
    let port = numbers.into_iter().find(|p| *p != 0)?;
    let udp = ["listen udp", "/udp", "over udp"].iter().any(|w| words.contains(w));
    Some(format!("{port}/{}", if udp { "udp" } else { "tcp" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Docker 20.10 to 29 and podman have said it.
    #[test]
    fn the_port_is_found_in_every_engines_words() {
        for (message, port) in [
            (
                "driver failed programming external connectivity on endpoint rf-1-web-0 (7f1e3c): Bind for 0.0.0.0:8080 failed: \
                 port is already allocated",
                Some("8080/tcp"),
            ),
            (
                "driver failed programming external connectivity on endpoint web (ab12): Error starting userland proxy: \
                 listen tcp4 127.0.0.1:8443: bind: address already in use",
                Some("8443/tcp"),
            ),
            (
                "driver failed programming external connectivity on endpoint web (ab12): Error starting userland proxy: \
                 listen udp 0.0.0.0:5353: bind: address already in use",
                Some("5353/udp"),
            ),
            ("listen tcp6 [fe80::1:2]:8080: bind: address already in use", Some("8080/tcp")),
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint web \
                 (ab): failed to bind host port for 0.0.0.0:80:172.18.0.2:8080/tcp: address already in use",
                Some("80/tcp"),
            ),
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint web \
                 (ab): failed to bind host port 0.0.0.0:53/udp: address already in use",
                Some("53/udp"),
            ),
            ("rootlessport listen tcp 0.0.0.0:8080: bind: address already in use", Some("8080/tcp")),
            ("cannot listen on the TCP port: listen tcp4 :8080: bind: address already in use", Some("8080/tcp")),
            ("address already in use", None),
            ("Bind for 0.0.0.0:99999999 failed: port is already allocated", None),
            ("[[[:]8080", None),
            ("", None),
        ] {
            assert_eq!(taken(message).as_deref(), port, "{message}");
        }
    }
}
